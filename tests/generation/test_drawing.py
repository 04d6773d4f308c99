"""Tokens are drawn by their probabilities, each row's by one number of its own generator."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.generation.drawing import draw


def generators(*seeds: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(seed) for row, seed in enumerate(seeds)}


def test_tokens_come_as_often_as_they_should() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.125, 0.0, 0.25, 0.125, 0.0])
    rows = 20_000
    drawn = Counter(draw(probabilities.expand(rows, -1), generators(*range(rows))).tolist())
    assert set(drawn) == {1, 2, 4, 5}
    # Pearson's chi-square of 3 degrees of freedom: above 16.3 in one of a thousand seeds.
    expected = {token: rows * float(probabilities[token]) for token in drawn}
    assert sum((drawn[token] - each) ** 2 / each for token, each in expected.items()) < 16.3


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5).filter(any), min_size=1, max_size=6))
def test_a_row_is_drawn_as_it_would_be_alone(rows: list[list[float]]) -> None:
    """Whatever is drawn beside it, and never what has no probability."""
    weights = torch.tensor(rows)
    probabilities = weights / weights.sum(1, keepdim=True)
    together = draw(probabilities, generators(*range(len(rows)))).tolist()
    alone = [int(draw(probabilities[[row]], generators(row))) for row in range(len(rows))]
    assert together == alone
    assert all(float(probabilities[row, token]) > 0 for row, token in enumerate(together))


def test_a_share_of_nearly_all_is_of_the_last_that_has_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform number that rounds to the whole."""
    probabilities = torch.tensor([[0.3, 0.7, 0.0, 0.0], [0.1, 0.2, 0.4, 0.3]])
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full((2, 1), 1 - 2**-53, dtype=torch.float64))
    assert draw(probabilities, {}).tolist() == [1, 3]
