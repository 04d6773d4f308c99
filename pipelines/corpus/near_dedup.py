"""Near-duplicates by MinHash LSH over shingles of five words, every candidate verified by its exact Jaccard similarity.

Broder 1997 (MinHash); Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", ch. 3 (banding). With `BANDS` bands
of `ROWS` rows a pair of similarity s becomes a candidate with probability 1 - (1 - s^ROWS)^BANDS: 0.9998 at s = 0.7
and 0.56 at s = 0.5. Verification then removes what only looked alike.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import xxhash

SHINGLE_WORDS = 5
ROWS = 5
BANDS = 26
_WORD = re.compile(r"\w+")

Hashes = npt.NDArray[np.uint64]


def shingles(text: str) -> Hashes:
    """The distinct hashes of all runs of five words, sorted, shape (n,); a shorter text is one shingle."""
    words = _WORD.findall(text)
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    runs = (" ".join(words[i : i + SHINGLE_WORDS]) for i in range(count))
    return np.unique(np.fromiter((xxhash.xxh64_intdigest(run.encode()) for run in runs), dtype=np.uint64, count=count))


def _coefficients() -> tuple[Hashes, Hashes]:
    generator = np.random.default_rng(0x7121)  # fixed: signatures of different runs must be comparable
    return (
        generator.integers(1, 1 << 31, ROWS * BANDS, dtype=np.uint64) * np.uint64(2) + np.uint64(1),
        generator.integers(0, 1 << 63, ROWS * BANDS, dtype=np.uint64),
    )


def signature(hashes: Hashes) -> Hashes:
    """One hash a band, shape (BANDS,): documents that share any of them, at the same place, are candidates."""
    multiply, add = _coefficients()
    smallest = np.full(ROWS * BANDS, np.iinfo(np.uint64).max, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for start in range(0, len(hashes), 4096):  # bounded memory for very long documents
            mixed = hashes[start : start + 4096, None] * multiply + add
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
            smallest = np.minimum(smallest, mixed.min(axis=0))
    bands = smallest.reshape(BANDS, ROWS)
    return np.fromiter((xxhash.xxh64_intdigest(band.tobytes()) for band in bands), dtype=np.uint64, count=BANDS)


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
        self._bands: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(BANDS)]

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
