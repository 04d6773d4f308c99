"""What a run does about bad steps, and what it tells of itself, on two ranks and in every ZeRO stage."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cluster.core.metrics import STATISTICS_FILE, read
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.stages.tokens.reader import TokenStore
from pipelines.stages.training.objectives.causal import CausalLM
from pipelines.stages.training.sources import stack
from pipelines.stages.training.telemetry.profiles import REQUEST_FILE, Profile, Request
from pipelines.stages.training.telemetry.stragglers import judge
from tests.training.tiny import LENGTH, make_tokens
from tests.training.trouble import BAD

pytestmark = pytest.mark.heavy

STEPS = 8
GROUP = Path(__file__).with_name("group.py")
SPIKES = {"spike_threshold": 20.0, "spike_window": 4}


def case(zero_stage: int, recipe: str = "", steps: int = STEPS, scaling: Any = None, **spec: Any) -> dict[str, Any]:
    fields = {"steps": steps, "schedule": "constant", "optimizer": "muon", "on_divergence": "skip", **spec}
    found = {"spec": fields, "scaling": {"zero_stage": zero_stage, **(scaling or {})}}
    return found | ({"recipe": f"tests.training.trouble:{recipe}"} if recipe else {})


WATCHED = {"statistics_every": 4, "micro_batch_size": 2}
CASES = {
    **{f"infinite-zero{stage}": case(stage, "infinite") for stage in range(4)},
    **{f"spike-zero{stage}": case(stage, "spike", **SPIKES) for stage in (0, 2, 3)},
    **{f"omitted-zero{stage}": case(stage, "omitted", STEPS - 1) for stage in range(4)},
    **{f"watched-zero{stage}": case(stage, scaling=WATCHED) for stage in range(4)},
    **{f"plain-zero{stage}": case(stage, scaling=WATCHED | {"statistics_every": 0}) for stage in range(4)},
    "resumed": case(1, "infinite") | {"stop_at": 7},
    "overflowing": case(1, "told", optimizer="adamw", precision="fp16", z_loss=20.0),
    **{f"exported-zero{stage}": case(stage, "exported") for stage in range(4)},
    "slow": case(1, "slow", scaling={"log_every": 4}),
    "profiled": case(1, scaling={"log_every": 2}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one output folder for each case."""
    root = tmp_path_factory.mktemp("watching")
    store = Store(root / "store")
    prints = {"tokens": make_tokens(store).fingerprint, "validation_web": make_tokens(store, "web").fingerprint}
    cases = {name: {**case, "inputs": {"tokens": prints["tokens"]}} for name, case in CASES.items()}
    cases["validated"] = {**CASES["profiled"], "inputs": prints}
    Location(root / "profiled").write_bytes(REQUEST_FILE, msgspec.json.encode(Request("mine", 3)))
    (root / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, str(GROUP), str(root), "2", str(root / "cases.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=840)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def weights(runs: Path, name: str) -> dict[str, torch.Tensor]:
    return dict(load_file(runs / name / "model.safetensors"))


def ended(runs: Path, name: str, rank: int = 0) -> list[Any]:
    """The steps of a run, each with why it was left out or nothing."""
    return [json.loads(line) for line in (runs / name / f"ended-{rank}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_that_is_left_out_is_not_told_as_taken(runs: Path, stage: int, rank: int) -> None:
    found = ended(runs, f"infinite-zero{stage}", rank)
    assert [step for step, _ in found] == list(range(STEPS))
    assert [step for step, reason in found if reason] == [BAD]
    assert "loss inf" in found[BAD][1]


def test_a_step_that_overflows_fp16_is_not_told_as_taken(runs: Path) -> None:
    left_out = [reason for _, reason in ended(runs, "overflowing") if reason]
    assert 0 < len(left_out) == read(Location(runs / "overflowing"))[-1]["overflowed_steps"] < STEPS
    assert all("overflowed fp16" in reason for reason in left_out)


@pytest.mark.parametrize("stage", range(4))
def test_only_the_rank_that_writes_holds_a_copy_of_the_model(runs: Path, stage: int) -> None:
    name = f"exported-zero{stage}"
    whole = sum(weight.numel() for weight in weights(runs, name).values())
    first, second = (json.loads((runs / name / f"copied-{rank}.json").read_text()) for rank in (0, 1))
    assert first == {"copied": whole, "held": whole}
    assert second == {"copied": 0, "held": 0}


def losses(runs: Path, name: str) -> list[Any]:
    return [line["loss"] for line in read(Location(runs / name))]


def same_weights(runs: Path, name: str, reference: str) -> bool:
    ours, theirs = weights(runs, name), weights(runs, reference)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("infinite", "spike"))])
def test_a_skipped_batch_is_as_if_it_had_not_been_there(runs: Path, name: str) -> None:
    without = f"omitted-{name.rpartition('-')[2]}"
    assert same_weights(runs, name, without)
    found = losses(runs, name)
    assert found[:BAD] + found[BAD + 1 :] == losses(runs, without)
    lines = read(Location(runs / name))
    assert [line["skipped_steps"] for line in lines] == [0] * BAD + [1] * (STEPS - BAD)
    assert lines[-1]["tokens"] == STEPS * lines[0]["tokens"]  # the batch is consumed
    assert f"step {BAD + 1} was skipped" in lines[BAD]["notices"][0]
    assert json.loads((runs / name / "figures.json").read_text())["skipped_steps"] == 1


def test_the_line_of_a_skipped_step_says_what_was_found(runs: Path) -> None:
    assert losses(runs, "infinite-zero1")[BAD] is None  # JSON knows no infinity
    spiked = losses(runs, "spike-zero2")
    assert spiked[BAD] == pytest.approx(100 * spiked[BAD - 1], rel=0.2)


def test_a_resumed_run_knows_what_was_skipped(runs: Path) -> None:
    lines = read(Location(runs / "resumed"))
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[-1]["skipped_steps"] == 1
    assert same_weights(runs, "resumed", "omitted-zero1")


@pytest.mark.parametrize("stage", range(4))
def test_statistics_change_no_bit(runs: Path, stage: int) -> None:
    assert same_weights(runs, f"watched-zero{stage}", f"plain-zero{stage}")
    assert losses(runs, f"watched-zero{stage}") == losses(runs, f"plain-zero{stage}")
    assert not (runs / f"plain-zero{stage}" / STATISTICS_FILE).exists()


@pytest.mark.parametrize("stage", range(4))
def test_statistics_are_those_of_the_whole_model(runs: Path, stage: int) -> None:
    name = f"watched-zero{stage}"
    lines = read(Location(runs / name), STATISTICS_FILE)
    assert [line["step"] for line in lines] == [4, 8]
    blocks = lines[-1]["blocks"]
    assert list(blocks) == ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"]
    # The gradients of all blocks make the global norm, which the engine reports on its own.
    total = math.sqrt(sum(block["grad_norm"] ** 2 for block in blocks.values()))
    assert total == pytest.approx(read(Location(runs / name))[-1]["grad_norm"], rel=1e-5)
    trained = weights(runs, name)
    for block, figures in blocks.items():
        norm = math.sqrt(sum(float(w.double().square().sum()) for k, w in trained.items() if k.startswith(block)))
        assert figures["weight_norm"] == pytest.approx(norm, rel=1e-6), block
        assert 1e-4 < figures["update_ratio"] < 1
        assert figures["activation_max_abs"] > figures["activation_std"] > 0
    reference = read(Location(runs / "watched-zero0"), STATISTICS_FILE)[-1]["blocks"]
    for block, figures in blocks.items():
        assert figures == pytest.approx(reference[block], rel=1e-3, abs=1e-6), block


def test_a_slow_rank_is_named(runs: Path) -> None:
    lines = read(Location(runs / "slow"))
    assert [line["straggler_rank"] for line in lines] == [1, 1]
    fast, slow = lines[-1]["rank_seconds"]
    assert slow > 1.5 * fast
    assert lines[-1]["straggler_ratio"] == pytest.approx(slow / fast, rel=0.01)
    assert "rank 1 is slow" in lines[0]["notices"][0]
    assert "notices" not in lines[1]  # once


@pytest.mark.parametrize(
    ("seconds", "rank", "ratio"),
    [
        ([1.0], None, 1.0),
        ([1.0, 1.4], None, 1.4),
        ([2.0, 1.0], 0, 2.0),
        ([1.0, 1.0, 1.0, 1.6], 3, 1.6),
        ([1.0, 4.0, 4.0], None, 1.0),  # one that is fast makes the others no stragglers
        ([0.0, 0.0], None, 1.0),
    ],
)
def test_the_slowest_is_compared_with_the_median(seconds: list[float], rank: int | None, ratio: float) -> None:
    assert judge(seconds, 1.5) == {"rank_seconds": seconds, "straggler_rank": rank, "straggler_ratio": ratio}


def test_a_profile_shows_the_operations_of_the_steps_that_were_asked_for(runs: Path) -> None:
    place = Location(runs / "profiled")
    found = msgspec.json.decode(place.read_bytes("profiles/mine.json"), type=Profile)
    assert found.last_step - found.first_step == 2
    for trace in found.traces:
        events = json.loads(gzip.decompress(place.read_bytes(trace)))["traceEvents"]
        names = [event["name"] for event in events if event.get("ph") == "X"]
        assert names.count("aten::embedding") == 3, "one forward pass a step"
        assert {"aten::mm"} <= set(names)
    assert len(found.traces) == 2
    assert not place.exists(REQUEST_FILE)
    assert any("were profiled" in line.get("notices", [""])[0] for line in read(place))


def test_a_further_set_is_validated_on_and_changes_nothing(runs: Path) -> None:
    figures, plain = (json.loads((runs / name / "figures.json").read_text()) for name in ("validated", "profiled"))
    assert same_weights(runs, "validated", "profiled")
    assert figures["validation_loss"] == plain["validation_loss"]
    (web,) = (a for a in Store(runs / "store").list("tokens") if "corpus" in a.record.parents)
    stored = TokenStore.open(web, "heldout")
    model = AutoModelForCausalLM.from_pretrained(runs / "validated")
    with torch.no_grad():
        loss = CausalLM(model, stored.eos_token_id, "fp32")(stack(stored, list(range(11))))
    assert figures["validation_loss_web"] == pytest.approx(float(loss) / (11 * LENGTH), rel=1e-5)
