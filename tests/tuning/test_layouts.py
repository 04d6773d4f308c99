"""The same tuning on other workers, batch splits and ZeRO stages: equal but for the order of additions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cluster.core.metrics import LOSS, read
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from tests.conftest import ROOT
from tests.tuning.group import STEPS
from tests.tuning.tiny_sft import METHODS, make_inputs, write_sources

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1700)]

ADAPTER = "adapter/adapter_model.safetensors"


def case(method: str, spec: dict[str, Any] | None = None, **scaling: Any) -> dict[str, Any]:
    return {"spec": {"method": method} | (spec or {}), "scaling": scaling}


ADAMW = {"optimizer": "adamw"}
NOISED = {"neftune_alpha": 5.0}
PACKED = {"packing": True, "sequence_length": 128}
SHARED = ("full", "lora", "qlora")  # by workers that have one sequence
CUT = {  # stages of ZeRO besides 1
    "full": (3,),
    "lora": (0, 2, 3),
    "dora": (2,),
    "whole": (3,),
    "qlora": (2,),
    "prefix": (3,),
}
SAME = {  # cases of two ranks, by what they must agree with
    **{f"{name}-zero{stage}": case(name, zero_stage=stage) for name, stages in CUT.items() for stage in stages},
    **{f"{name}-shared": case(name, sequence_parallel_size=2) for name in SHARED},
    "full-micro2": case("full", micro_batch_size=2),
    "noised-shared": case("lora", NOISED, sequence_parallel_size=2),
    "packed-micro2": case("lora", PACKED, micro_batch_size=2),
    "packed-shared": case("lora", PACKED, sequence_parallel_size=2),
    "packed-checkpointed": case("lora", PACKED, activation_checkpointing=True),
}
TWO_RANKS = {
    **{name: case(name) for name in METHODS},
    "noised": case("lora", NOISED),
    "packed": case("lora", PACKED),
    **{f"{name}-again": case(name) | {"stop_at": 4} for name in METHODS},
    "noised-again": case("lora", NOISED) | {"stop_at": 4},
    "packed-again": case("lora", PACKED) | {"stop_at": 4},
    **SAME,
    # The last ones: DeepSpeed keeps its groups for as long as a process lives.
    "adamw-cut": case("full", ADAMW, tensor_parallel_size=2),
    "adamw-packed-cut": case("full", ADAMW | PACKED, tensor_parallel_size=2),
}
ONE_RANK = {f"{name}-one": case(name) for name in ("lora", "qlora", "prefix")} | {
    "noised-one": case("lora", NOISED),
    "packed-one": case("lora", PACKED),
    "adamw-one": case("full", ADAMW),
    "adamw-packed-one": case("full", ADAMW | PACKED),
}
AGREE = [(name.partition("-")[0], name) for name in (*SAME, *ONE_RANK) if not name.startswith("adamw")]
AGREE += [("adamw-one", "adamw-cut"), ("adamw-packed-one", "adamw-packed-cut")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one output folder for each case."""
    root = tmp_path_factory.mktemp("layouts")
    make_inputs(Store(root / "store"), write_sources(root))
    for ranks, cases in ((2, TWO_RANKS), (1, ONE_RANK)):
        (root / f"{ranks}.json").write_text(json.dumps(cases))
        command = [sys.executable, "-m", "tests.tuning.group", str(root), str(ranks), str(root / f"{ranks}.json")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1400)
        assert done.returncode == 0, done.stderr[-3000:]
    return root


def trajectory(runs: Path, name: str) -> list[float]:
    """Losses of all steps and, last, the validation loss."""
    losses = [line[LOSS] for line in read(Location(runs / name))]
    assert len(losses) == STEPS
    return [*losses, json.loads((runs / name / "figures.json").read_text())["validation_loss"]]


@pytest.mark.parametrize(("reference", "name"), AGREE)
def test_layouts_agree(runs: Path, reference: str, name: str) -> None:
    assert trajectory(runs, name) == pytest.approx(trajectory(runs, reference), abs=1e-4)


@pytest.mark.parametrize("method", ["lora", "qlora", "prefix"])
def test_adapters_are_whole_in_every_layout(runs: Path, method: str) -> None:
    reference = load_file(runs / f"{method}-one" / ADAPTER)
    for name in TWO_RANKS:
        if name.startswith(method):
            found = load_file(runs / name / ADAPTER)
            assert found.keys() == reference.keys()
            assert all((found[key] - reference[key]).abs().max() < 1e-3 for key in reference), name


@pytest.mark.parametrize("name", [*METHODS, "noised", "packed"])
def test_what_was_stopped_goes_on_to_the_same_bits(runs: Path, name: str) -> None:
    assert trajectory(runs, f"{name}-again") == trajectory(runs, name)
    found = {path.relative_to(runs / name) for path in (runs / name).rglob("*model.safetensors")}
    assert found
    for file in found:
        assert (runs / f"{name}-again" / file).read_bytes() == (runs / name / file).read_bytes(), file


@pytest.mark.parametrize("name", [*METHODS, "packed"])
def test_they_learn(runs: Path, name: str) -> None:
    losses = trajectory(runs, name)
    assert losses[-1] < losses[0] - {"prompt": 0.02, "prefix": 0.05}.get(name, 0.1), losses


def test_noise_is_of_training_alone(runs: Path) -> None:
    assert trajectory(runs, "noised")[0] != trajectory(runs, "lora")[0]
