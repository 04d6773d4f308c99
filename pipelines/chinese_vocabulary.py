"""Extend a tokenizer, such as LLaMA's, with Chinese pieces, for a model that is to go on learning in Chinese.

Pieces are trained on your Chinese documents, or taken from another model (`--set vocabulary.merge=chinese_sp.model`):

    ctl run pipelines/chinese_vocabulary.py --config pipelines/presets/chinese.yaml \\
        --set 'corpus.sources=[{reader: jsonl, path: /data/zh}]' --set vocabulary.base=/models/llama/tokenizer.model

`ctl artifacts show vocabulary/chinese-vocabulary` tells coverage, fertility and compression, before and after; with
`--set vocabulary.inputs.unchanged=corpus/NAME` for another corpus too, such as an English one.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import CorpusSpec, VocabularySpec


@pipeline
def chinese_vocabulary(step):
    corpus = step(CorpusSpec(near_duplicates="drop"))
    return step(VocabularySpec(script="Han", num_pieces=20_000), corpus=corpus)


if __name__ == "__main__":
    main(chinese_vocabulary)
