"""Hashes of runs of words or characters, over whole arrays at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def rolling_hashes(
    values: npt.NDArray[np.unsignedinteger], lengths: Collection[int]
) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
    """For each length, ascending: the 64-bit hashes of all runs of so many values, in order.

    Lengths that exceed the number of values are left out. A hash depends on the run alone, not on what is around it.
    """
    longest = max((length for length in lengths if length <= len(values)), default=0)
    hashes = np.zeros(len(values), np.uint64)
    for length in range(1, longest + 1):
        hashes = hashes[: len(values) - length + 1] * _MULTIPLIER
        hashes += values[length - 1 :]
        hashes ^= hashes >> _SHIFT
        if length in lengths:
            yield length, hashes
