"""Masking as the paper has it: 15 % are asked for, 80/10/10 of them replaced, random and kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.training.objectives.masked import mask_tokens
from pipelines.stages.training.objectives.objective import NO_LABEL

ORDINARY, MASK = np.arange(4, 1000), 3


@given(st.lists(st.integers(-100, 999), max_size=200), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_only_what_is_asked_for_changes(given_tokens: list[int], fraction: float, seed: int) -> None:
    tokens = np.array(given_tokens, dtype=np.int64)
    found = mask_tokens(tokens, ORDINARY, MASK, fraction, np.random.default_rng(seed))
    asked = found.labels != NO_LABEL
    assert np.array_equal(found.inputs[~asked], tokens[~asked])
    assert np.array_equal(found.labels[asked], tokens[asked])
    assert (tokens[asked] >= 4).all()
    ordinary = int((tokens >= 4).sum())
    assert asked.sum() == min(ordinary, max(1, round(fraction * ordinary)))
    replaced = found.inputs[asked]
    assert (replaced[replaced != MASK] >= 4).all()
    again = mask_tokens(tokens, ORDINARY, MASK, fraction, np.random.default_rng(seed))
    assert np.array_equal(again.inputs, found.inputs)


def test_the_shares_are_the_papers() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 1000, 512)
    found = [mask_tokens(tokens, ORDINARY, MASK, 0.15, np.random.default_rng(seed)) for seed in range(400)]
    asked = np.concatenate([one.labels != NO_LABEL for one in found])
    inputs, truth = np.concatenate([one.inputs for one in found])[asked], np.tile(tokens, 400)[asked]
    assert abs(asked.mean() - 0.15) < 0.001
    assert abs((inputs == MASK).mean() - 0.8) < 0.007
    assert abs((inputs == truth).mean() - 0.1) < 0.006  # a random token is the true one once in a thousand
    assert abs(((inputs != MASK) & (inputs != truth)).mean() - 0.1) < 0.006
