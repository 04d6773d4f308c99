"""Documents into sequences without needless cuts: best-fit-decreasing bin packing.

Ding et al., "Fewer Truncations Improve Language Modeling" (ICML 2024). A document that fits a sequence is never cut; a
longer one is cut into whole sequences and a remainder. Every piece then goes, longest first, to the fullest sequence
that has room for it. The cost is padding, which is small because there are many short pieces to fill gaps with.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """Sequence i holds the segments `offsets[i]` to `offsets[i + 1]`; a segment is [start, stop) of the flat tokens.

    Shapes (sequences + 1,) and (segments, 2). Segments of a sequence come in the order of the text.
    """

    offsets: Array
    segments: Array


def best_fit(lengths: Array, capacity: int) -> Packed:
    """Pack documents of these lengths (tokens, each at least 1), one after another, into sequences of `capacity`.

    The segments are a partition of the tokens. Deterministic: of equal pieces the earlier goes first, of equally full
    sequences the one that became so last is filled. O(n log capacity) for n pieces.
    """
    starts, pieces = _cut(lengths, capacity)
    homes = np.empty(len(pieces), dtype=np.int64)
    whole = pieces == capacity
    num_sequences = int(whole.sum())
    homes[whole] = np.arange(num_sequences)

    longest_first = np.flatnonzero(~whole)
    longest_first = longest_first[np.argsort(-pieces[longest_first], kind="stable")]
    room: list[int] = []  # the distinct amounts of room that open sequences have, ascending
    open_sequences: list[list[int]] = [[] for _ in range(capacity + 1)]  # by room
    placed = []
    for length in pieces[longest_first].tolist():
        place = bisect_left(room, length)
        if place == len(room):
            sequence, left = num_sequences, capacity - length
            num_sequences += 1
        else:
            left = room[place] - length
            candidates = open_sequences[room[place]]
            sequence = candidates.pop()
            if not candidates:
                del room[place]
        if left:
            if not open_sequences[left]:
                insort(room, left)
            open_sequences[left].append(sequence)
        placed.append(sequence)
    homes[longest_first] = placed

    order = np.argsort(homes, kind="stable")  # pieces are in the order of the text already
    offsets = np.zeros(num_sequences + 1, dtype=np.int64)
    np.cumsum(np.bincount(homes, minlength=num_sequences), out=offsets[1:])
    return Packed(offsets, np.stack([starts, starts + pieces], axis=1)[order])


def _cut(lengths: Array, capacity: int) -> tuple[Array, Array]:
    """Starts and lengths of the pieces that documents are cut into: whole sequences, then the remainder."""
    parts = -(-lengths // capacity)
    first = np.cumsum(parts) - parts  # the number of each document's first piece
    within = np.arange(int(parts.sum())) - np.repeat(first, parts)
    begins = np.repeat(np.cumsum(lengths) - lengths, parts)
    starts = begins + within * capacity
    return starts, np.minimum(capacity, begins + np.repeat(lengths, parts) - starts)
