"""Workers that share every sequence: what undivided runs find, but for the order of additions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.location import Location
from cluster.metrics import LOSS, TOKENS, read
from cluster.store import Store
from tests.training.tiny import BATCH, LENGTH, make_tokens

STEPS = 5
ROUNDS = Path(__file__).with_name("rounds.py")

SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
LLAMA = SMALL | {"intermediate_size": 64}
GLM = LLAMA | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": LENGTH}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model": "llama-1m", "model_overrides": LLAMA | {"num_key_value_heads": 2}},
    "gpt2": {"model": "gpt2-1m", "model_overrides": SMALL},
    "gpt_neox": {"model": "pythia-1m", "model_overrides": LLAMA},
    "stablelm": {"model": {"model_type": "stablelm", **LLAMA, "num_key_value_heads": 4}, "model_overrides": {}},
    "glm": {"model": {"model_type": "glm", **GLM}, "model_overrides": {}},
    "glm4": {"model": {"model_type": "glm4", **GLM}, "model_overrides": {}},
}


def round_(workers: int, size: int, zero_stage: int, **more: Any) -> dict[str, Any]:
    end = {"stop_at": more.pop("stop_at")} if "stop_at" in more else {}
    scaling = {"num_workers": workers, "sequence_parallel_size": size, "zero_stage": zero_stage}
    return {"scaling": scaling | more, **end}


SHARED: dict[str, list[dict[str, Any]]] = {
    **{f"{family}-2": [round_(2, 2, 2, micro_batch_size=4)] for family in MODELS},
    "llama-4-of-4": [round_(4, 4, 1, statistics_every=STEPS)],  # two key/value heads for four workers
    "llama-2-of-4": [round_(4, 2, 3, micro_batch_size=1)],
    "gpt2-4-of-4": [round_(4, 4, 0, activation_checkpointing=True)],
    "llama-elastic": [round_(1, 1, 0, stop_at=2), round_(2, 2, 1, stop_at=3), round_(4, 2, 2, stop_at=4), round_(1, 1, 0)],
}
CASES: dict[str, Any] = {
    **{name: {"spec": {"steps": STEPS, **MODELS[family]}, "rounds": [round_(1, 1, 0)]} for name, family in zip(MODELS, MODELS)},
    **{name: {"spec": {"steps": STEPS, **MODELS[name.partition("-")[0]]}, "rounds": rounds} for name, rounds in SHARED.items()},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one output folder for each case."""
    root = tmp_path_factory.mktemp("ulysses")
    make_tokens(Store(root / "store"))
    (root / "cases.json").write_text(json.dumps(CASES))
    command = [sys.executable, str(ROUNDS), str(root), str(root / "cases.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def figures(runs: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((runs / name / "figures.json").read_text()))


@pytest.mark.parametrize("name", SHARED)
def test_losses_are_those_of_whole_sequences(runs: Path, name: str) -> None:
    whole = name.partition("-")[0]
    lines, reference = (read(Location(runs / case)) for case in (name, whole))
    for figure in (LOSS, "grad_norm", TOKENS):
        assert [line[figure] for line in lines] == pytest.approx([line[figure] for line in reference], rel=1e-5), figure
    assert lines[-1][TOKENS] == STEPS * BATCH * LENGTH
    found, expected = (figures(runs, case)["validation_loss"] for case in (name, whole))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", SHARED)
def test_weights_are_those_of_whole_sequences(runs: Path, name: str) -> None:
    found, expected = (load_file(runs / case / "model.safetensors") for case in (name, name.partition("-")[0]))
    assert found.keys() == expected.keys()
    for weight, tensor in expected.items():
        d = torch.linalg.vector_norm(found[weight] - tensor); print(weight, float(d / torch.linalg.vector_norm(tensor)))
