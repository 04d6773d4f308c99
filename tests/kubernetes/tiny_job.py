"""The pipeline of the tests' RayJobs: a tiny model, of tokens that the store has (tests/training/tiny.py)."""

from cluster.pipeline import main, pipeline
from tests.training.tiny import pretrain


@pipeline
def tiny(step):
    return step(pretrain(100, optimizer="muon"), tokens="tokens/tiny")


if __name__ == "__main__":
    main(tiny)
