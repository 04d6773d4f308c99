"""nanoGPT's published CPU setting: a GPT-2 of 0.8 M parameters learns Shakespeare character by character.

ctl run pipelines/shakespeare.py --set 'corpus.sources=[{reader: text, path: train.txt, assign: train}, {reader: text,
path: val.txt, assign: heldout}]' with the first 90 % and the last 10 % of the text, as nanoGPT splits it. The figures
are of its README and of config/train_shakespeare_char.py. Of the model two things differ: transformers' GPT-2 has
biases, and embeddings are not decayed. benchmarks/nanogpt.py runs this on tinyshakespeare;
`--set pretrain.optimizer=muon` does better.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import CorpusSpec, PretrainSpec, TokenizerSpec, TokensSpec


@pipeline
def shakespeare(step):
    """Train nanoGPT's character model for CPUs with its published hyperparameters."""
    corpus = step(CorpusSpec(rules=()))
    tokenizer = step(TokenizerSpec(algorithm="characters"), corpus=corpus)
    tokens = step(TokensSpec(sequence_length=64), corpus=corpus, tokenizer=tokenizer)
    model = PretrainSpec(
        model="gpt2-1m",
        model_overrides={"n_layer": 4, "n_head": 4, "n_embd": 128},
        total_tokens=2000 * 12 * 64,
        global_batch_size=12,
        learning_rate=1e-3,
        min_learning_rate_fraction=0.1,
        warmup_steps=100,
        beta2=0.99,
        weight_decay=0.1,
        max_grad_norm=1.0,
        validation_sequences=1_000_000,  # all
    )
    return step(model, tokens=tokens)


if __name__ == "__main__":
    main(shakespeare)
