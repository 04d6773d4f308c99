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
from tests.tuning.tiny_sft import make_inputs, write_sources

pytestmark = pytest.mark.heavy


def case(adapter: str, **scaling: Any) -> dict[str, Any]:
    return {"spec": {"adapter": adapter}, "scaling": scaling}


def packed(**scaling: Any) -> dict[str, Any]:
    return {"spec": {"adapter": "lora", "packing": True, "sequence_length": 128}, "scaling": scaling}


ADAMW = {"adapter": "none", "optimizer": "adamw"}
PACKED = ADAMW | {"packing": True, "sequence_length": 128}
ADAPTERS = {"all": "none", "lora": "lora", "qlora": "qlora"}
TWO_RANKS = {
    "all": case("none"),
    "all-micro2": case("none", micro_batch_size=2),
    "all-zero3": case("none", zero_stage=3),
    **{f"lora-zero{stage}": case("lora", zero_stage=stage) for stage in range(4)},
    **{f"qlora-zero{stage}": case("qlora", zero_stage=stage) for stage in range(3)},
    **{f"{name}-shared": case(adapter, sequence_parallel_size=2) for name, adapter in ADAPTERS.items()},
    **{f"{name}-again": case(adapter) | {"stop_at": 4} for name, adapter in ADAPTERS.items()},
    "packed": packed(),
    "packed-micro2": packed(micro_batch_size=2),
    "packed-shared": packed(sequence_parallel_size=2),
    "packed-checkpointed": packed(activation_checkpointing=True),
    "packed-again": packed() | {"stop_at": 4},
    # The last ones: DeepSpeed keeps its groups for as long as a process lives.
    "adamw-cut": {"spec": ADAMW, "scaling": {"tensor_parallel_size": 2}},
    "adamw-packed-cut": {"spec": PACKED, "scaling": {"tensor_parallel_size": 2}},
}
ONE_RANK = {f"{name}-one": case(adapter) for name, adapter in ADAPTERS.items()}
ONE_RANK |= {
    "adamw-one": {"spec": ADAMW, "scaling": {}},
    "adamw-packed-one": {"spec": PACKED, "scaling": {}},
    "packed-one": packed(),
}
AGREE = [
    *(("all", other) for other in ("all-micro2", "all-zero3", "all-shared", "all-one")),
    *(("lora-zero1", other) for other in ("lora-zero0", "lora-zero2", "lora-zero3", "lora-shared", "lora-one")),
    *(("qlora-zero1", other) for other in ("qlora-zero0", "qlora-zero2", "qlora-shared", "qlora-one")),
    *(("packed", f"packed-{other}") for other in ("micro2", "shared", "checkpointed", "one")),
    ("adamw-one", "adamw-cut"),
    ("adamw-packed-one", "adamw-packed-cut"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one output folder for each case."""
    root = tmp_path_factory.mktemp("layouts")
    make_inputs(Store(root / "store"), write_sources(root))
    for ranks, cases in ((2, TWO_RANKS), (1, ONE_RANK)):
        (root / f"{ranks}.json").write_text(json.dumps(cases))
        command = [sys.executable, "-m", "tests.tuning.group", str(root), str(ranks), str(root / f"{ranks}.json")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=840)
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


@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_updates_are_whole_in_every_layout(runs: Path, adapter: str) -> None:
    reference = load_file(runs / f"{adapter}-one" / "adapter" / "adapter_model.safetensors")
    for name in TWO_RANKS:
        if name.startswith(adapter):
            found = load_file(runs / name / "adapter" / "adapter_model.safetensors")
            assert found.keys() == reference.keys()
            assert all((found[key] - reference[key]).abs().max() < 1e-3 for key in reference), name


@pytest.mark.parametrize(
    ("name", "whole"), [("all", "all"), ("lora", "lora-zero1"), ("qlora", "qlora-zero1"), ("packed", "packed")]
)
def test_what_was_stopped_goes_on_to_the_same_bits(runs: Path, name: str, whole: str) -> None:
    assert trajectory(runs, f"{name}-again") == trajectory(runs, whole)
    for file in ("model.safetensors", *(() if name == "all" else ("adapter/adapter_model.safetensors",))):
        assert (runs / f"{name}-again" / file).read_bytes() == (runs / whole / file).read_bytes(), file


def test_they_learn(runs: Path) -> None:
    for name in ("all", "lora-zero1", "qlora-zero1", "packed"):
        losses = trajectory(runs, name)
        assert losses[-1] < losses[0] - 0.1, name
