"""Alarms: each sign is told at the step that shows it, with a remedy, and a run that learns has none."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.watching.alarms import WINDOW, alarms

SPEC = RlhfSpec(rewards={"python_parses": 1.0, "gsm8k": 0.0}, max_completion_tokens=100)
STEPS = 30


def point(step: int, **changes: float) -> dict[str, Any]:
    figures = {"heldout_reward": 0.2 + step / 100, "heldout_gsm8k": 0.5, "heldout_completion_tokens": 40.0}
    return {"step": step, **figures, "heldout_distinct": 0.9, "heldout_repetition": 0.02} | changes


def line(step: int, **changes: Any) -> dict[str, Any]:
    figures = {"entropy": 1.0, "zero_variance_fraction": 0.3, "clip_fraction": 0.1, "kl_limited": False}
    return {"step": step, **figures, "rollout_logprob_gap": 1e-5, "staleness_steps": 0} | changes


HEALTHY_POINTS = [point(step) for step in (0, 10, 20, 30)]
HEALTHY_LINES = [line(step) for step in range(1, STEPS + 1)]


def test_a_run_that_learns_has_none() -> None:
    assert alarms(SPEC, HEALTHY_LINES, HEALTHY_POINTS) == []
    assert alarms(SPEC, [], []) == alarms(SPEC, HEALTHY_LINES[:3], HEALTHY_POINTS[:1]) == []


POINTS: dict[str, dict[str, float]] = {
    "reward_hacking": {"heldout_gsm8k": 0.3},
    "length_explosion": {"heldout_completion_tokens": 95.0},
    "length_collapse": {"heldout_completion_tokens": 8.0},
    "sameness": {"heldout_distinct": 0.2},
    "repetition": {"heldout_repetition": 0.5},
}


@pytest.mark.parametrize("name", POINTS)
def test_an_evaluation_that_shows_a_sign(name: str) -> None:
    """From the third point on: it is told once, of that step, with the figures."""
    points = [*HEALTHY_POINTS[:2], *(point(step, **POINTS[name]) for step in (20, 30))]
    (alarm,) = alarms(SPEC, HEALTHY_LINES, points)
    assert (alarm.name, alarm.step) == (name, 20)
    assert alarm.remedy and str(alarm).startswith(f"{name}: ")


LINES: dict[str, dict[str, Any]] = {
    "entropy_collapse": {"entropy": 0.01},
    "nothing_to_compare": {"zero_variance_fraction": 1.0},
    "steps_too_long": {"clip_fraction": 0.9},
    "at_the_bound": {"kl_limited": True},
    "engine_and_learner_differ": {"rollout_logprob_gap": 0.3},
}


@pytest.mark.parametrize("name", LINES)
def test_steps_that_show_a_sign(name: str) -> None:
    """The median over some steps, so that one bad step is none."""
    once = [*HEALTHY_LINES[:-1], line(STEPS, **LINES[name])]
    assert alarms(SPEC, once, HEALTHY_POINTS) == []
    lines = [*HEALTHY_LINES[:15], *(line(step, **LINES[name]) for step in range(16, STEPS + 1))]
    (alarm,) = alarms(SPEC, lines, HEALTHY_POINTS)
    assert alarm.name == name and 15 < alarm.step <= 15 + WINDOW


def test_steps_behind_the_weights_do_not_tell_how_engine_and_learner_differ() -> None:
    behind = [line(step, rollout_logprob_gap=0.3, staleness_steps=1) for step in range(1, STEPS + 1)]
    assert alarms(SPEC, behind, HEALTHY_POINTS) == []


def test_a_reward_that_is_learned_from_is_no_judge() -> None:
    weighed = RlhfSpec(rewards={"python_parses": 1.0, "gsm8k": 0.5}, max_completion_tokens=100)
    points = [HEALTHY_POINTS[0], point(10, heldout_gsm8k=0.1)]
    assert alarms(weighed, [], points) == []
    assert [alarm.name for alarm in alarms(SPEC, [], points)] == ["reward_hacking"]
