"""A pipeline whose training begins before its tokens are finished: the same model to the bit, and the first error."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cluster.control.screen.view import View
from cluster.core.errors import InputError
from cluster.core.graph import record
from cluster.core.metrics import read
from cluster.core.storage.store import Store
from cluster.pipeline import run
from pipelines.specs import PretrainSpec, TokenizerSpec, TokensSpec
from tests.corpus.files import source
from tests.tokens.corpora import GivenSpec
from tests.training.tiny import SMALL

pytestmark = pytest.mark.heavy

PART_DOCUMENTS, PARTS, STEPS, BATCH, LENGTH = 100, 9, 30, 8, 32
TRAIN = tuple(source(number, 2) for number in range(PART_DOCUMENTS * PARTS))
HELDOUT = tuple(source(10_000 + number, 2) for number in range(60))
SCALING = {"num_workers": 2, "log_every": 10, "data_workers": 1}


class Slow(View):
    """Keeps the tokens from being finished until training has told of its first steps."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = threading.Event()
        self.early = False

    def progress(self, key: str, done: float, total: float, unit: str, stats: dict[str, Any]) -> None:
        if key == "pretrain" and done:
            self.trained.set()
        if key == "tokens" and done == total:
            self.early = self.trained.wait(480)


def pipeline(sequence_length: int = LENGTH) -> Any:
    def steps(step: Any) -> None:
        corpus = step(GivenSpec(train=TRAIN, heldout=HELDOUT))
        tokenizer = step(TokenizerSpec(vocab_size=400), corpus=corpus)
        tokens = step(TokensSpec(sequence_length=sequence_length), corpus=corpus, tokenizer=tokenizer)
        fields = {"model": "llama-1m", "model_overrides": SMALL | {"intermediate_size": 64}, "warmup_steps": 2}
        total = STEPS * BATCH * sequence_length
        step(PretrainSpec(total_tokens=total, global_batch_size=BATCH, window_shards=2, **fields), tokens=tokens)

    return steps


def test_training_begins_before_the_tokens_are_finished(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> None:
    stores = [Store(tmp_path_factory.mktemp(name)) for name in ("early", "late")]
    graph = record("ingest", pipeline(), {"scaling": SCALING}, stores[0])
    view = Slow()
    early = run(graph, stores[0], view)
    assert view.early
    (shards,) = [len(early["tokens"].location.names("train"))]
    assert shards == PARTS + 1  # and the documents' offsets, but nothing of what only drafts have
    assert early["pretrain"].record.parents["tokens"].fingerprint == early["tokens"].fingerprint

    graph = record("ingest", pipeline(), {"scaling": SCALING}, stores[1])
    whole = graph.steps[:]
    graph.steps = whole[:-1]
    built = run(graph, stores[1], View())
    graph.steps = whole
    late = run(graph, stores[1], View())
    assert built["tokens"].record.files == early["tokens"].record.files
    weights = [artifacts["pretrain"].record.files["model.safetensors"] for artifacts in (early, late)]
    assert weights[0] == weights[1]
    assert early["pretrain"].metrics == late["pretrain"].metrics
    losses = [[line["loss"] for line in read(artifacts["pretrain"].location)] for artifacts in (early, late)]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS // 10


def test_what_the_tokens_fail_of_is_what_the_run_says(store: Store, ray_cluster: None) -> None:
    """Not that training waited in vain. Whether the train split or the held-out one is found too short is a race."""
    graph = record("ingest", pipeline(sequence_length=10**6), {"scaling": SCALING}, store)
    with pytest.raises(InputError, match=r"tokens.sequence_length: 1000000 is longer|not one sequence of 1000000"):
        run(graph, store, View())
    assert store.list("pretrain") == []
