"""Killed and resumed runs have the same bits, at every ZeRO stage; on other numbers of workers, the same samples."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from cluster.core.metrics import LOSS, STEP, TIMED, read
from cluster.core.storage.location import Location
from tests.training.tiny import LENGTH, SMALL, run_rounds

pytestmark = pytest.mark.heavy

STEPS = 24
OFTEN = {"checkpoint_every_seconds": 1e-6}
KILLS = sorted(random.Random(20261121).sample(range(3, STEPS), 3))


def on(num_workers: int, zero_stage: int, **end: int) -> dict[str, Any]:
    return {"scaling": {"num_workers": num_workers, "zero_stage": zero_stage, **OFTEN}, **end}


SPECS: dict[str, dict[str, Any]] = {
    "0": {"steps": STEPS, "optimizer": "adamw"},
    "2": {"steps": STEPS, "optimizer": "muon"},
    "3": {"steps": STEPS, "optimizer": "muon", "precision": "bf16"},
}
ELASTIC = {"total_tokens": STEPS * 12 * LENGTH, "global_batch_size": 12, "steps": STEPS}
CASES: dict[str, Any] = {
    **{f"whole-{z}": {"spec": spec, "rounds": [on(2, int(z))]} for z, spec in SPECS.items()},
    **{
        f"killed-{z}": {
            "spec": spec,
            "rounds": [*(on(2, int(z), kill_at=step, victim=step % 2) for step in KILLS), on(2, int(z))],
        }
        for z, spec in SPECS.items()
    },
    "one": {"spec": ELASTIC, "rounds": [on(1, 0)]},
    "elastic": {"spec": ELASTIC, "rounds": [on(2, 1, stop_at=7), on(1, 0, stop_at=13), on(3, 3, stop_at=19), on(2, 2)]},
}
OTHERS = {"muon": 1e-5, "adafactor": 1e-5, "adamw8bit": 2e-3}  # 8-bit moments are quantized anew, in other blocks
for optimizer in OTHERS:
    SPEC = ELASTIC | {"optimizer": optimizer, "model_overrides": SMALL | {"intermediate_size": 57}}
    CASES[f"one-{optimizer}"] = {"spec": SPEC, "rounds": [on(1, 0)]}
    CASES[f"elastic-{optimizer}"] = {"spec": SPEC, "rounds": [on(2, 3, stop_at=8), on(3, 1, stop_at=16), on(1, 0)]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one output folder for each case."""
    return run_rounds(tmp_path_factory.mktemp("resume"), CASES)


def lines(runs: Path, name: str) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock; each step stands there once."""
    found = [{k: v for k, v in line.items() if k not in TIMED} for line in read(Location(runs / name))]
    assert [line[STEP] for line in found] == list(range(1, STEPS + 1))
    return found


def figures(runs: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((runs / name / "figures.json").read_text()))


def samples(runs: Path, name: str) -> list[list[str]]:
    """What each step of the final history was trained on: of steps that were taken twice, the later reading."""
    steps: dict[int, dict[int, list[str]]] = {}
    rounds = len(CASES[name]["rounds"])
    for number in range(rounds):
        begun = False
        for path in sorted((runs / name).glob(f"reads-{number}-*.jsonl")):
            rank = int(path.stem.rsplit("-", 1)[1])
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            if not begun:  # what an attempt before had read of these steps did not count
                steps = {step: read for step, read in steps.items() if step < rows[0][0]}
                begun = True
            for step, read_ in rows:
                steps.setdefault(step, {})[rank] = read_
    return [[one for rank in sorted(steps[step]) for one in steps[step][rank]] for step in range(STEPS)]


@pytest.mark.parametrize("zero_stage", SPECS)
def test_a_run_killed_three_times_has_the_same_bits(runs: Path, zero_stage: str) -> None:
    killed, whole = f"killed-{zero_stage}", f"whole-{zero_stage}"
    assert lines(runs, killed) == lines(runs, whole)
    assert figures(runs, killed) == figures(runs, whole)
    weights = [(runs / name / "model.safetensors").read_bytes() for name in (killed, whole)]
    assert weights[0] == weights[1]
    assert samples(runs, killed) == samples(runs, whole)


def test_kills_fell_behind_checkpoints(runs: Path) -> None:
    """Else the test above would train from the beginning each time."""
    for zero_stage in SPECS:
        firsts = [
            json.loads((runs / f"killed-{zero_stage}" / f"reads-{number}-0.jsonl").read_text().splitlines()[0])[0]
            for number in range(len(KILLS) + 1)
        ]
        assert firsts[0] == 0 and firsts[-1] > 0 and firsts == sorted(firsts)


def test_other_numbers_of_workers_see_the_same_samples_in_the_same_order(runs: Path) -> None:
    found = samples(runs, "elastic")
    assert found == samples(runs, "one")
    assert {len(step) for step in found} == {12}
    assert len({one for step in found for one in step}) > STEPS * 12 // 2  # readings differ


@pytest.mark.parametrize("optimizer", OTHERS)
def test_every_optimizer_goes_on_elsewhere(runs: Path, optimizer: str) -> None:
    elastic, one = ([line[LOSS] for line in lines(runs, f"{kind}-{optimizer}")] for kind in ("elastic", "one"))
    assert elastic == pytest.approx(one, rel=OTHERS[optimizer])


def test_and_have_the_same_losses(runs: Path) -> None:
    elastic, one = ([line[LOSS] for line in lines(runs, name)] for name in ("elastic", "one"))
    assert elastic == pytest.approx(one, rel=1e-5)
    validation = [figures(runs, name)["validation_loss"] for name in ("elastic", "one")]
    assert validation[0] == pytest.approx(validation[1], rel=1e-5)
