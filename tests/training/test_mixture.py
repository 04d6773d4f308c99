"""Pretraining on a mixture: a loss for every source and one for all, and no run of too many epochs."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from cluster.core.build import build
from cluster.core.errors import SpecError
from cluster.core.metrics import read
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import MixtureSpec
from tests.training.run_once import SCALING
from tests.training.tiny import BATCH, LENGTH, make_tokens, pretrain

pytestmark = pytest.mark.heavy

STEPS = 20


def mixed(store: Store, **fields: float) -> Artifact:
    inputs = {"web": make_tokens(store, "web"), "code": make_tokens(store, "code", 200)}
    return build(MixtureSpec(weights={"web": 3.0, "code": 1.0}, **fields), inputs, store=store, name="mixed")  # type: ignore[arg-type]


def test_a_model_of_a_mixture(store: Store, ray_cluster: None) -> None:
    from pipelines.stages.tokens.stream import open_stores
    from pipelines.stages.training.objectives.causal import CausalLM
    from pipelines.stages.training.sources import stack

    spec = pretrain(STEPS, evaluate_every_steps=10)
    artifact = build(spec, {"tokens": mixed(store)}, store=store, scaling=SCALING, name="tiny")
    found = artifact.metrics
    heldout = open_stores(artifact.parent("tokens"), "heldout")
    model = AutoModelForCausalLM.from_pretrained(artifact.local())
    for name, stored in heldout.items():
        count = min(11, stored.num_sequences)
        with torch.no_grad():
            loss = CausalLM(model, stored.eos_token_id, "fp32")(stack(stored, list(range(count))))
        assert float(loss) / (count * LENGTH) == pytest.approx(found[f"validation_loss_{name}"], rel=1e-5)
    mean = 0.75 * found["validation_loss_web"] + 0.25 * found["validation_loss_code"]
    assert found["validation_loss"] == pytest.approx(mean, rel=1e-12)
    assert found["validation_loss_web"] != found["validation_loss_code"]
    code = open_stores(artifact.parent("tokens"), "train")["code"]
    assert found["epochs_code"] == pytest.approx(STEPS * BATCH / 4 / code.num_sequences, abs=1e-4)
    assert "tokenizer.json" in artifact.record.files
    assert {"validation_loss", "validation_loss_web", "validation_loss_code"} <= read(artifact.location)[0].keys()


def test_too_many_epochs_are_refused_before_a_cluster_is_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipelines.stages.training.stage.connect", lambda scaling: pytest.fail("a cluster was asked for")
    )
    with pytest.raises(SpecError, match=r"epochs of 'code' .*, above 0.1"):
        build(pretrain(STEPS), {"tokens": mixed(store, max_epochs=0.1)}, store=store, scaling=SCALING, name="tiny")
