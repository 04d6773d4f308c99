"""The n-grams of words that a text repeats, for Gopher's filter of repetition.

N-grams are numbered, not joined to strings: an n-gram can only repeat where the n-grams one shorter repeat, so each
length looks at the few places that the length before left over, and a text without repetition is sorted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class Ngrams(NamedTuple):
    """The n-grams of one length that occur more than once: where, ascending, and which of them it is."""

    n: int
    positions: Integers
    groups: Integers
    ends: Integers  # characters up to each word

    def top(self) -> int:
        """Characters, blanks between words included, in all occurrences of the most frequent; of equals the first."""
        first, times = 0, 1
        if len(self.groups):
            counts = np.bincount(self.groups)
            times = int(counts.max())
            first = int(self.positions[np.argmax(counts[self.groups] == times)])
        return (int(self.ends[first + self.n] - self.ends[first]) + self.n - 1) * times

    def duplicate(self) -> int:
        """Characters, without blanks, in those that occurred before and do not overlap the last that counted."""
        total, free, seen = 0, 0, set()
        for position, group in zip(self.positions.tolist(), self.groups.tolist(), strict=True):
            if position < free:
                continue
            if group in seen:
                free = position + self.n
                total += int(self.ends[free] - self.ends[position])
            seen.add(group)
        return total


def repeated_ngrams(words: list[str], longest: int) -> Iterator[Ngrams]:
    """The repeated n-grams of 2 words, of 3, and so on; ends with the longest that the text can hold."""
    number = {word: i for i, word in enumerate(dict.fromkeys(words))}
    ids = np.fromiter(map(number.__getitem__, words), np.int64, len(words))
    ends = np.zeros(len(words) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, number), np.int64, len(number))[ids], out=ends[1:])
    positions = np.flatnonzero(np.bincount(ids)[ids] > 1)
    groups = ids[positions]
    for n in range(2, min(longest, len(words)) + 1):
        if len(positions):
            follows = np.zeros(len(words) + 1, bool)
            follows[positions] = True
            extends = follows[positions + 1]  # what it extends to must repeat without its first word too
            positions = positions[extends]
            groups, counts = _numbered(groups[extends] * len(words) + ids[positions + n - 1])
            repeats = counts[groups] > 1
            positions, groups = positions[repeats], groups[repeats]
        yield Ngrams(n, positions, groups, ends)


def _numbered(keys: Integers) -> tuple[Integers, Integers]:
    """Numbers for the distinct keys, from 0, and how often each occurs."""
    order = np.argsort(keys)
    ascending = keys[order]
    changes = np.zeros(len(keys), np.int64)
    np.cumsum(ascending[1:] != ascending[:-1], out=changes[1:])
    numbers = np.empty_like(changes)
    numbers[order] = changes
    return numbers, np.bincount(changes)
