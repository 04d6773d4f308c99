"""Learning-rate schedules start, peak and end where they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.specs import PretrainSpec
from pipelines.stages.training.schedules import learning_rate_factor

STEPS = 100


def curve(**fields: object) -> list[float]:
    spec = PretrainSpec(**fields)  # type: ignore[arg-type]
    return [learning_rate_factor(step, STEPS, spec) for step in range(STEPS + 1)]


def test_warm_up_is_linear() -> None:
    assert curve(warmup_steps=4, schedule="constant")[:6] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_and_linear_meet_halfway_and_end_at_the_minimum() -> None:
    for schedule in ("cosine", "linear"):
        factors = curve(warmup_steps=0, schedule=schedule, min_learning_rate_fraction=0.1)
        assert factors[0] == 1.0
        assert factors[50] == pytest.approx(0.55)
        assert factors[100] == pytest.approx(0.1)


def test_wsd_is_flat_and_then_falls_to_nothing() -> None:
    factors = curve(warmup_steps=10, schedule="wsd", decay_fraction=0.5)
    assert factors[9:56] == [1.0] * 47
    assert factors[55] > factors[56] > factors[99] > factors[100] == 0.0


@given(
    schedule=st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    warmup=st.integers(0, 200),
    decay=st.floats(0, 1),
)
def test_factors_rise_then_fall_within_bounds(schedule: str, warmup: int, decay: float) -> None:
    factors = curve(schedule=schedule, warmup_steps=warmup, decay_fraction=decay)[:STEPS]
    peak = factors.index(max(factors))
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
