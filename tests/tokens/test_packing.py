"""Best-fit packing: no token lost or repeated, no document cut that fits, and little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.tokens.packing import Packed, best_fit


def pack(lengths: list[int], capacity: int) -> Packed:
    return best_fit(np.array(lengths, dtype=np.int64), capacity)


def sequences(packed: Packed) -> list[list[tuple[int, int]]]:
    ranges = [(int(start), int(stop)) for start, stop in packed.segments]
    return [ranges[a:b] for a, b in zip(packed.offsets, packed.offsets[1:], strict=False)]


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 20))
def test_every_token_is_in_one_sequence_and_fitting_documents_are_whole(lengths: list[int], capacity: int) -> None:
    packed = pack(lengths, capacity)
    found = sequences(packed)
    assert all(sequence and sum(stop - start for start, stop in sequence) <= capacity for sequence in found)
    tokens = [token for sequence in found for start, stop in sequence for token in range(start, stop)]
    assert sorted(tokens) == list(range(sum(lengths)))
    ranges = {segment for sequence in found for segment in sequence}
    start = 0
    for length in lengths:
        pieces = [(at, min(at + capacity, start + length)) for at in range(start, start + length, capacity)]
        assert ranges >= set(pieces)
        start += length
    assert len(ranges) == sum(-(-length // capacity) for length in lengths)
    assert all(sequence == sorted(sequence) for sequence in found)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80))
def test_no_two_sequences_would_fit_one(lengths: list[int]) -> None:
    """What any best-fit packing has: hence at most twice the least number of sequences."""
    used = [sum(stop - start for start, stop in sequence) for sequence in sequences(pack(lengths, 10))]
    assert sum(sorted(used)[:2]) > 10 or len(used) == 1


def test_by_hand() -> None:
    # Of capacity 10; the document of 23 gives two whole sequences and a piece of 3.
    # Longest first: 7 opens a sequence, 6 another, 4 fits the 6 (the fullest with room), 3 and 3 in order of the text.
    packed = pack([6, 23, 7, 3, 4], 10)
    assert sequences(packed) == [[(6, 16)], [(16, 26)], [(26, 29), (29, 36)], [(0, 6), (39, 43)], [(36, 39)]]
    assert packed.offsets.dtype == packed.segments.dtype == np.int64


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([], []), ([10], [[(0, 10)]]), ([11], [[(0, 10)], [(10, 11)]]), ([5, 5, 1], [[(0, 5), (5, 10)], [(10, 11)]])],
)
def test_edges(lengths: list[int], expected: list[list[tuple[int, int]]]) -> None:
    packed = pack(lengths, 10)
    assert sequences(packed) == expected
    assert packed.segments.shape == (len(packed.segments), 2)


def test_real_lengths_leave_almost_no_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1.2, 20_000).astype(np.int64) + 1
    packed = best_fit(lengths, 2049)
    assert 1 - lengths.sum() / (2049 * (len(packed.offsets) - 1)) < 0.001
