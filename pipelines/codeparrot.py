"""CodeParrot small: a GPT-2 of 124 M parameters with 50,000 pieces, trained on Python code from scratch.

Published hyperparameters: batch 32 x 8 accumulation (256 sequences of 1,024 tokens an update), 50,000 updates, cosine
after 1,000 steps of warm-up, learning rate 5e-4, weight decay 0.1, mixed precision. By default it learns from this
machine's own Python sources; `--set 'corpus.sources=[{reader: text, path: ...}]'` takes yours.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import CorpusSpec, EvaluationSpec, ExportSpec, PretrainSpec, TokenizerSpec, TokensSpec


@pipeline
def codeparrot(step):
    """Train CodeParrot small with its published hyperparameters (GPUs recommended)."""
    corpus = step(CorpusSpec(near_duplicates="drop"))
    tokenizer = step(TokenizerSpec(vocab_size=50_000), corpus=corpus)
    tokens = step(TokensSpec(sequence_length=1024), corpus=corpus, tokenizer=tokenizer)
    model = step(
        PretrainSpec(
            model="gpt2-124m",
            total_tokens=50_000 * 256 * 1024,
            global_batch_size=32 * 8,
            optimizer="adamw",
            learning_rate=5e-4,
            schedule="cosine",
            warmup_steps=1000,
            weight_decay=0.1,
            precision="bf16",
        ),
        tokens=tokens,
    )
    evaluation = step(EvaluationSpec(), model=model, tokens=tokens, corpus=corpus)
    return step(ExportSpec(), model=model, evaluation=evaluation)


if __name__ == "__main__":
    main(codeparrot)
