"""What a script imports beside its specs (`pipelines.specs`).

@pipeline
def quickstart(step):
    corpus = step(CorpusSpec())
    return step(TokenizerSpec(vocab_size=2048), corpus=corpus)

if __name__ == "__main__":
    main(quickstart)
"""

from cluster.control.run import main, run
from cluster.core.build import build
from cluster.core.pipeline import Pipeline, load_script, pipeline

__all__ = ["Pipeline", "build", "load_script", "main", "pipeline", "run"]
