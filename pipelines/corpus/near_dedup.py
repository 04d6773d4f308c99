"""Near-duplicates by MinHash LSH over shingles of five words, every candidate verified by its exact Jaccard similarity.

Broder 1997 (MinHash); Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", ch. 3 (banding). With b bands of r
rows a pair of similarity s becomes a candidate with probability 1 - (1 - s^r)^b. The bands follow from the threshold,
so that at most one pair in a thousand at it is missed; verification then removes what only looked alike.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import xxhash

SHINGLE_WORDS = 5
PERMUTATIONS = 128
MISSED_FRACTION = 1e-3
_WORD = re.compile(r"\w+")

Hashes = npt.NDArray[np.uint64]


def shingles(text: str) -> Hashes:
    """The distinct hashes of all runs of five words, sorted, shape (n,); a shorter text is one shingle."""
    words = _WORD.findall(text)
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    runs = (" ".join(words[i : i + SHINGLE_WORDS]) for i in range(count))
    return np.unique(np.fromiter((xxhash.xxh64_intdigest(run.encode()) for run in runs), dtype=np.uint64, count=count))


def bands_and_rows(threshold: float) -> tuple[int, int]:
    """The most rows a band (the fewest false candidates) that miss at most `MISSED_FRACTION` of pairs at `threshold`.

    0.7: 32 bands of 4 rows, 0.015 % missed. Below 0.053 no layout of the permutations keeps the promise.
    """
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= MISSED_FRACTION:
            return bands, rows
    return PERMUTATIONS, 1


@functools.cache
def _coefficients() -> tuple[Hashes, Hashes]:
    generator = np.random.default_rng(0x7121)  # fixed: signatures of different runs must be comparable
    return (
        generator.integers(1, 1 << 31, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1),
        generator.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64),
    )


def signature(hashes: Hashes, threshold: float) -> Hashes:
    """One hash a band, shape (bands,): documents that share any of them, at the same place, are candidates."""
    multiply, add = _coefficients()
    smallest = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for start in range(0, len(hashes), 4096):  # bounded memory for very long documents
            mixed = hashes[start : start + 4096, None] * multiply + add
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
            smallest = np.minimum(smallest, mixed.min(axis=0))
    bands, rows = bands_and_rows(threshold)
    parts = smallest[: bands * rows].reshape(bands, rows)
    return np.fromiter((xxhash.xxh64_intdigest(part.tobytes()) for part in parts), dtype=np.uint64, count=bands)


def jaccard(a: Hashes, b: Hashes) -> float:
    """Size of the intersection over size of the union of two sets of shingles."""
    common = np.intersect1d(a, b, assume_unique=True).size
    return common / (a.size + b.size - common)


class NearIndex:
    """The documents kept so far, found again by their band hashes. Memory: one integer a document and band."""

    def __init__(self, threshold: float, shingles_of: Callable[[int], Hashes]) -> None:
        """`shingles_of(row)` fetches a document's shingles; it is asked for candidates only."""
        self._threshold = threshold
        self._shingles_of = shingles_of
        self._bands: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(bands_and_rows(threshold)[0])]

    def add(self, row: int, signature: list[int]) -> None:
        for band, value in zip(self._bands, signature, strict=True):
            band[value].append(row)

    def find(self, row: int, signature: list[int]) -> int | None:
        """The first kept document whose Jaccard similarity with `row` reaches the threshold, or None."""
        found = {kept for band, value in zip(self._bands, signature, strict=True) for kept in band.get(value, ())}
        mine = self._shingles_of(row) if found else None
        for kept in sorted(found):
            if mine is not None and jaccard(mine, self._shingles_of(kept)) >= self._threshold:
                return kept
        return None
