"""Sweeps: the space and its errors, and trials on a real cluster that are pruned, found again and told best first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.control.screen.view import View
from cluster.control.sweeps.space import Axis, draw, nested, parse_axis
from cluster.control.sweeps.sweep import Plan, Trial, run_sweep
from cluster.core.errors import SpecError, UsageError
from cluster.core.storage.store import Store
from tests.cli.command import ctl

pytestmark = pytest.mark.heavy

SCRIPT = Path(__file__).with_name("sweep_script.py")


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("a.b=1e-4..1e-2:log", Axis("a.b", low=1e-4, high=1e-2, log=True)),
        ("a.b=1..8", Axis("a.b", low=1, high=8)),
        ("a.b=0.0..1", Axis("a.b", low=0.0, high=1.0)),
        ("a.b=adamw,muon", Axis("a.b", values=("adamw", "muon"))),
        ("a.b=1,2e3,0.5", Axis("a.b", values=(1, 2000, 0.5))),
        ("a.b.c=true", Axis("a.b.c", values=(True,))),
    ],
)
def test_an_axis_as_it_is_typed(text: str, axis: Axis) -> None:
    found = parse_axis(text)
    assert found == axis
    assert [type(found.low), type(found.high)] == [type(axis.low), type(axis.high)]


@pytest.mark.parametrize(
    "text", ["a=1,2", "a.b", "a.b=", "a..b=1", "a.b=x..y", "a.b=2..1", "a.b=0..1:log", "a.b=1..2:exp", "a.b=[1"]
)
def test_what_is_no_axis_is_told(text: str) -> None:
    with pytest.raises((UsageError, SpecError)):
        parse_axis(text)


def test_trials_follow_from_the_seed_and_stay_in_the_space() -> None:
    axes = [parse_axis("a.rate=1e-4..1e-2:log"), parse_axis("a.size=2..5"), parse_axis("b.kind=x,y")]
    trials = draw(axes, 60, seed=3)
    assert trials == draw(axes, 60, seed=3) != draw(axes, 60, seed=4)
    assert trials[:20] == draw(axes, 20, seed=3)
    assert all(1e-4 <= trial["a.rate"] <= 1e-2 for trial in trials)
    assert {trial["a.size"] for trial in trials} == {2, 3, 4, 5}
    assert {trial["b.kind"] for trial in trials} == {"x", "y"}
    below = sum(trial["a.rate"] < 1e-3 for trial in trials)  # half of the logarithm's interval
    assert 15 < below < 45
    assert nested({"a.rate": 1, "a.size": 2, "b.c.d": 3}) == {"a": {"rate": 1, "size": 2}, "b": {"c": {"d": 3}}}


def test_no_trial_comes_twice() -> None:
    assert sorted(trial["a.b"] for trial in draw([parse_axis("a.b=1,2,3")], 8, seed=0)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ("pretrain.learning_rat=1e-4..1e-2", "Did you mean 'learning_rate'"),
        ("pretrian.learning_rate=1e-4..1e-2", "Did you mean 'pretrain'"),
        ("pretrain.optimizer=adamw,sgd", "Invalid enum value 'sgd'"),
        ("pretrain.model=llama-1m,llama-2m", "'llama-2m'"),
        ("scaling.num_workers=1,2", "scaling changes no result"),
        ("evaluation.stride_tokens=1,2", "pretrain is not built from a step 'evaluation'"),
    ],
)
def test_what_is_wrong_is_told_before_a_cluster_is_asked_for(over: str, words: str, tmp_path: Path) -> None:
    done = ctl("sweep", "pipelines/pretrain.py", "--over", over, "--store", tmp_path)
    assert done.returncode == 3
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def plan(root: Path, values: str, samples: int, **more: Any) -> Plan:
    over = [f"toy.learning_rate={values}"]
    changes = {"toy": {"log": str(root / "log")}}
    axes = [parse_axis(text) for text in over]
    fields = {"metric": "toy.loss", "mode": "min", "seed": 1, **more}
    return Plan(SCRIPT, Store(root / "store"), changes, "", axes, samples=samples, over=over, **fields)


def test_a_sweep_prunes_and_is_found_again(ray_cluster: None, tmp_path: Path) -> None:
    asked = plan(tmp_path, "0.25,2.0", 2)
    assert [trial.fields["toy.learning_rate"] for trial in asked.sweep.trials] == [0.25, 2.0]
    told: list[Trial] = []
    found = run_sweep(asked, View(), prune=True, concurrent=1, tell=told.append)

    best, pruned = found.best_first()
    assert (best.state, best.value, best.percent) == ("finished", 0.25, 100.0)
    artifact = asked.store.resolve(best.artifact)
    assert artifact.spec["learning_rate"] == 0.25
    assert (pruned.state, pruned.value, pruned.percent, pruned.artifact) == ("pruned", 2.0, 6.25, "")
    assert [trial.state for trial in told] == ["finished", "pruned"]
    log = (tmp_path / "log").read_text().splitlines()
    assert log == ["begins 0.25", "ends 0.25", "begins 2.0", "ends 2.0"]
    assert len(asked.store.list("words")) == 1

    again = plan(tmp_path, "0.25,2.0", 2)
    assert again.sweep == found
    assert run_sweep(again, View(), prune=True) == found

    # as if it had been interrupted before it had noted the first
    again.sweep.trials[0] = Trial(again.sweep.trials[0].fields)
    assert run_sweep(again, View(), prune=True, concurrent=1) == found
    assert (tmp_path / "log").read_text().splitlines() == log
    assert json.loads(again.place.read_bytes("sweep.json"))["trials"][0]["artifact"] == best.artifact


def test_a_trial_that_fails_is_told_and_does_not_end_the_others(ray_cluster: None, tmp_path: Path) -> None:
    found = run_sweep(plan(tmp_path, "-1.0,0.5", 2), View(), prune=True, concurrent=1)
    good, bad = found.best_first()
    assert (good.state, good.value) == ("finished", 0.5)
    assert bad.state == "failed"
    assert "a negative learning rate" in bad.error


@pytest.mark.exhaustive
def test_a_trial_that_hangs_is_stopped_and_told(ray_cluster: None, tmp_path: Path) -> None:
    asked = plan(tmp_path, "2.0,10.0,0.5", 3)
    found = run_sweep(asked, View(), prune=False, concurrent=1, stall_seconds=30)
    good, *bad = found.best_first()
    assert (good.state, good.value) == ("finished", 0.5)
    assert [trial.state for trial in bad] == ["failed", "failed"]
    for trial in bad:
        assert trial.error == "no progress for 30 s: the trial was stopped"
    running = psutil.process_iter(["cmdline", "status"])
    assert not [p for p in running if "1000000" in (p.info["cmdline"] or ()) and p.info["status"] != "zombie"]
    # The first was asked to end, and did so in order; the second could only be killed.
    assert (tmp_path / "log").read_text().splitlines().count("ends 2.0") == 1
    assert "ends 10.0" not in (tmp_path / "log").read_text()
