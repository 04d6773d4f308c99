"""Pretrain any model on any corpus: every field of every step comes from `--config FILE` and `--set`.

ctl run pipelines/pretrain.py --config my.yaml --set pretrain.total_tokens=1e9
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import CorpusSpec, EvaluationSpec, ExportSpec, PretrainSpec, TokenizerSpec, TokensSpec


@pipeline
def pretrain(step):
    """Corpus, tokenizer, tokens, pretraining, evaluation and export, as the configuration says."""
    corpus = step(CorpusSpec())
    tokenizer = step(TokenizerSpec(), corpus=corpus)
    tokens = step(TokensSpec(), corpus=corpus, tokenizer=tokenizer)
    model = step(PretrainSpec(), tokens=tokens)
    evaluation = step(EvaluationSpec(), model=model, tokens=tokens, corpus=corpus)
    return step(ExportSpec(), model=model, evaluation=evaluation)


if __name__ == "__main__":
    main(pretrain)
