"""Offline preference optimization on a real cluster: it learns what is preferred, and its figures are true."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.core import metrics
from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import DpoSpec, PreferencesSpec, ReferenceSpec, ScalingSpec
from pipelines.stages.alignment.offline.answers import digest, last_answer
from pipelines.stages.alignment.offline.reference import ReferenceLogprobs
from pipelines.stages.alignment.preferences import read_preferences
from tests.conftest import ROOT

pytestmark = pytest.mark.heavy

SCALING = ScalingSpec(num_workers=1, log_every=1, checkpoint_every_seconds=1000.0)
LENGTH = 256


@pytest.fixture(scope="module")
def inputs(chat_inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A tiny model that chats, answers of which one is damaged, and what the model thinks of them."""
    store = Store(tmp_path_factory.mktemp("dpo"))
    spec = PreferencesSpec(foreign_fraction=0.0)
    preferences = build(spec, {"conversations": chat_inputs["prompts"]}, store=store, name="tiny")
    given = {"model": chat_inputs["model"], "preferences": preferences}
    asked = ReferenceSpec(sequence_length=LENGTH, mismatched=True)
    return given | {"reference": build(asked, given, store=store, scaling=SCALING, name="tiny")}


@pytest.fixture(scope="module")
def tuned(inputs: dict[str, Artifact]) -> Artifact:
    spec = DpoSpec(
        epochs=1.0,
        global_batch_size=32,
        sequence_length=LENGTH,
        learning_rate=1e-3,
        warmup_steps=2,
        validation_pairs=60,
    )
    return build(spec, inputs, store=inputs["preferences"].store, scaling=SCALING, name="tiny")


def logprobs(model: Any, tokenizer: Any, row: dict[str, Any], side: str) -> float:
    """As anyone would compute it."""
    one = last_answer(tokenizer, row["prompt"], row[side])
    tokens = torch.tensor([one.tokens])
    with torch.no_grad():
        found = model(tokens).logits[0, :-1].double().log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
    return float(found[torch.tensor(one.learn[1:])].sum())


def test_it_learns_what_is_preferred_and_the_figures_are_true(tuned: Artifact, inputs: dict[str, Artifact]) -> None:
    """At the start both answers have the reward 0, and the loss is ln 2: what was stored is what the model thinks."""
    lines = metrics.read(tuned.location)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    told = tuned.metrics
    assert told["heldout_reward_accuracy_low"] > 0.6
    assert told["validation_loss"] < 0.9 * math.log(2)
    assert (told["pairs"], told["epochs"]) == (480, 1.0)
    rows = read_preferences(inputs["preferences"].local(), "heldout")[: told["heldout_pairs"]]
    tokenizer = AutoTokenizer.from_pretrained(tuned.local())
    model, start = (
        AutoModelForCausalLM.from_pretrained(a.local(), dtype=torch.float32) for a in (tuned, inputs["model"])
    )
    found = {
        side: np.array([[logprobs(one, tokenizer, row, side) for one in (model, start)] for row in rows])
        for side in ("chosen", "rejected")
    }
    rewards = {side: 0.1 * (values[:, 0] - values[:, 1]) for side, values in found.items()}
    margins = rewards["chosen"] - rewards["rejected"]
    expected = {
        "validation_loss": np.log1p(np.exp(-margins)).mean(),
        "heldout_reward_accuracy": (margins > 0).mean(),
        "heldout_reward_margin": margins.mean(),
        "heldout_chosen_reward": rewards["chosen"].mean(),
        "heldout_rejected_logprob": found["rejected"][:, 0].mean(),
    }
    assert {name: told[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_reference_is_an_artifact_of_all_that_is_asked_for(inputs: dict[str, Artifact]) -> None:
    known = ReferenceLogprobs.read(inputs["reference"]).known
    rows = read_preferences(inputs["preferences"].local(), "train")
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"].local())
    model = AutoModelForCausalLM.from_pretrained(inputs["model"].local(), dtype=torch.float32)
    for row, side in ((rows[0], "chosen"), (rows[7], "rejected"), (rows[-1], "chosen")):
        expected = logprobs(model, tokenizer, row, side)
        assert known[digest(last_answer(tokenizer, row["prompt"], row[side]))] == pytest.approx(expected, rel=1e-5)
    mismatched = digest(last_answer(tokenizer, rows[0]["prompt"], rows[1]["chosen"]))
    assert mismatched in known
    assert not [name for name in inputs["reference"].record.files if name not in ("logprobs.npz",)]


KTO = {
    "loss": {"type": "kto"},
    "method": {"type": "lora", "rank": 8, "alpha": 16},
    "global_batch_size": 16,
    "sequence_length": LENGTH,
    "learning_rate": 1e-2,
    "warmup_steps": 1,
    "validation_pairs": 32,
}
ORPO = KTO | {"loss": {"type": "orpo"}, "method": {"type": "full"}, "learning_rate": 1e-3}


def test_what_was_stopped_goes_on_to_the_same_bits(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """KTO by LoRA, whose baseline is of the batch and whose reference is stored; in micro-batches it is the same but
    for the order of additions. ORPO needs no reference."""

    def case(spec: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
        artifacts = {name: inputs[name] for name in names}
        given = [(name, one.kind, one.store.root.url, one.fingerprint) for name, one in artifacts.items()]
        return {"inputs": given, "spec": spec, "steps": 6, "scaling": {}} | more

    all_three = ("model", "preferences", "reference")
    cases = {
        "kto": case(KTO, *all_three),
        "kto-again": case(KTO, *all_three, stop_at=3),
        "kto-micro4": case(KTO, *all_three, scaling={"micro_batch_size": 4}),
        "orpo": case(ORPO, *all_three[:2]),
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "tests.alignment.offline_group", str(tmp_path), str(tmp_path / "cases.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = {name: [line["loss"] for line in metrics.read(Location(tmp_path / name))] for name in cases}
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in cases}
    assert losses["kto-again"] == losses["kto"]
    assert weights["kto-again"] == weights["kto"]
    assert losses["kto-micro4"] == pytest.approx(losses["kto"], abs=1e-5)
    figures = json.loads((tmp_path / "kto" / "figures.json").read_text())
    assert figures["trained_parameters"] < 0.5 * figures["parameters"]
    assert figures["heldout_reward_margin"] > 0 and figures["validation_loss"] < 0.5  # with rewards of 0 it is 1/2
    assert losses["orpo"][-1] < losses["orpo"][0]
