"""A GLM: one model that fills short blanks and writes on, pretrained by a mixture of blanks (Du et al. 2022).

Half of the samples have short blanks (to understand), half have the end of a document to be written (to generate).
`--set 'pretrain.objective={infilling_sentence: 1, infilling_document: 0}'` takes whole sentences instead of the latter.
What it has learned fills blanks: pipelines/stages/training/objectives/filling.py.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import CorpusSpec, PretrainSpec, TokenizerSpec, TokensSpec


@pipeline
def glm(step):
    """Pretrain a GLM on a corpus of your own; by default a small one on this machine's Python sources."""
    corpus = step(CorpusSpec(near_duplicates="drop"))
    special = ("[MASK]", "[sMASK]", "[gMASK]", "<sop>", "<eop>")
    tokenizer = step(TokenizerSpec(vocab_size=4096, special_tokens=special), corpus=corpus)
    tokens = step(TokensSpec(sequence_length=512), corpus=corpus, tokenizer=tokenizer)
    blanks = {"infilling_short": 1.0, "infilling_document": 1.0}
    positions = {"position_embedding_type": "rotary"}  # small models learn from blanks much sooner so
    spec = PretrainSpec(model="glm-1m", model_overrides=positions, objective=blanks, total_tokens=10_000_000)
    return step(spec, tokens=tokens)


if __name__ == "__main__":
    main(glm)
