"""Pieces of flat shards: all ranks' together are every element of every weight, once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.training.parallel.layouts import Layout, Whole

pytestmark = pytest.mark.heavy

SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)


def layout(shapes: list[tuple[int, int]], rows: int, rank: int, ranks: int) -> tuple[Layout, int]:
    """The layout of one rank, and the length of its shard."""
    sizes = [math.prod(shape) if rows == 1 else -(-math.prod(shape) // ranks) for shape in shapes]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    columns = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    wholes = [Whole(torch.Size(shape)) for shape in shapes]
    length = ends[-1] if rows > 1 else -(-ends[-1] // ranks)
    return Layout(wholes, columns, rows, rank, ranks, torch.device("cpu")), length


@given(shapes=SHAPES, ranks=st.integers(1, 5), whole_rows=st.booleans())
def test_pieces_tile_the_weights(shapes: list[tuple[int, int]], ranks: int, whole_rows: bool) -> None:
    rows = ranks if whole_rows else 1
    found: list[list[int]] = [[] for _ in shapes]
    for rank in range(ranks):
        mine, length = layout(shapes, rows, rank, ranks)
        end = 0
        for piece in mine.pieces(torch.zeros(length)):
            assert end <= piece.at.start < piece.at.stop <= length
            end = piece.at.stop
            found[piece.number] += range(piece.begin, piece.begin + piece.at.stop - piece.at.start)
            # Where the gathered shards have the piece, Muon looks for it, too.
            start, stop = mine.columns[piece.number]
            of_all = rank * length + piece.at.start
            row, column = divmod(of_all, length) if rows > 1 else (0, of_all)
            assert row * (stop - start) + column - start == piece.begin
    assert found == [list(range(math.prod(shape))) for shape in shapes]
