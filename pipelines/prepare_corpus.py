"""Prepare a corpus, train a tokenizer on it and encode it: everything that training needs of raw documents.

`pipelines/presets` holds rule sets for web pages, papers, code and Chinese; name one and say where your documents are:

    ctl run pipelines/prepare_corpus.py --config pipelines/presets/papers.yaml \\
        --set 'corpus.sources=[{reader: jats, path: /data/pmc}]'
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import CorpusSpec, TokenizerSpec, TokensSpec


@pipeline
def prepare_corpus(step):
    corpus = step(CorpusSpec(near_duplicates="drop"))
    tokenizer = step(TokenizerSpec(vocab_size=2048), corpus=corpus)
    return step(TokensSpec(sequence_length=256), corpus=corpus, tokenizer=tokenizer)


if __name__ == "__main__":
    main(prepare_corpus)
