"""The main line on a laptop: this machine's own Python sources -> a small code model, evaluated and ready to serve.

A Llama of 1.07 M parameters with 2,048 pieces, trained by Muon for three minutes on two CPU cores.
"""

from cluster.pipeline import main, pipeline
from cluster.specs import CorpusSpec, EvaluationSpec, ExportSpec, PretrainSpec, TokenizerSpec, TokensSpec


@pipeline
def quickstart(step):
    """Pretrain a small code model on the Python sources of this machine."""
    corpus = step(CorpusSpec(max_bytes=6_000_000, max_file_bytes=100_000, part_bytes=1_000_000))
    tokenizer = step(TokenizerSpec(vocab_size=2048), corpus=corpus)
    tokens = step(TokensSpec(sequence_length=256), corpus=corpus, tokenizer=tokenizer)
    model = step(
        PretrainSpec(
            model="llama-1m",
            total_tokens=2_600_000,
            global_batch_size=8,
            optimizer="muon",
            muon_learning_rate=0.02,
            learning_rate=4e-3,
            weight_decay=0.0,
            schedule="linear",
            warmup_steps=40,
        ),
        tokens=tokens,
    )
    evaluation = step(EvaluationSpec(), model=model, tokens=tokens, corpus=corpus)
    return step(ExportSpec(), model=model, evaluation=evaluation)


if __name__ == "__main__":
    main(quickstart)
