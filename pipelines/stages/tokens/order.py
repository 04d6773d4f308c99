"""The order of training samples as arithmetic: position -> sample, in O(1) time and memory.

Every epoch is a keyed permutation of [0, n): a balanced Feistel network over the next even number of bits, walked
along its cycle until it lands inside (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). The
state of a data loader is therefore one integer, and the worker layout does not enter.
`WindowedOrder` is for shards that are still being written (see ingest.py).
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ROUNDS = 6

Positions = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]


def _round_keys(seed: int, epoch: int) -> list[np.uint64]:
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8 * ROUNDS).digest()
    return [np.uint64(word) for word in np.frombuffer(digest, dtype="<u8")]


def _mix(words: _Words) -> _Words:
    """The finalizer of splitmix64 (Steele, Lea & Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class Order:
    """Samples 0 ... num_samples - 1, shuffled anew in every epoch, for ever."""

    def __init__(self, num_samples: int, seed: int) -> None:
        if not 1 <= num_samples < 2**62:
            raise ValueError(f"num_samples must be between 1 and 2**62 - 1, not {num_samples}")
        self.num_samples = num_samples
        self.seed = seed
        self._half_bits = np.uint64(max(1, (max(1, (num_samples - 1).bit_length()) + 1) // 2))
        self._mask = (np.uint64(1) << self._half_bits) - np.uint64(1)

    def sample(self, position: int) -> int:
        """The sample at a position of the run."""
        return int(self.samples(position, position + 1)[0])

    def samples(self, start: int, stop: int) -> Positions:
        """The samples at positions [start, stop), shape (stop - start,)."""
        found = np.empty(stop - start, dtype=np.int64)
        position = start
        while position < stop:
            epoch, offset = divmod(position, self.num_samples)
            count = min(stop - position, self.num_samples - offset)
            found[position - start : position - start + count] = self._permute(offset, count, epoch)
            position += count
        return found

    def _permute(self, offset: int, count: int, epoch: int) -> Positions:
        keys = _round_keys(self.seed, epoch)
        words = np.arange(offset, offset + count, dtype=np.uint64)
        outside = np.ones(count, dtype=bool)
        while outside.any():  # the domain is at most four times n: four walks on average
            words[outside] = self._encipher(words[outside], keys)
            outside = words >= np.uint64(self.num_samples)
        return words.astype(np.int64)

    def _encipher(self, words: _Words, keys: list[np.uint64]) -> _Words:
        left, right = words >> self._half_bits, words & self._mask
        with np.errstate(over="ignore"):
            for key in keys:
                left, right = right, left ^ (_mix(right + key) & self._mask)
        return (left << self._half_bits) | right


class WindowedOrder:
    """One pass over shards that are still being written, shuffled within windows of consecutive shards.

    A window is known as soon as all its shards are finished, and shards that come later change nothing before them:
    a sample's place is a function of the seed and of the sizes of the shards up to the end of its window.
    """

    def __init__(self, shard_sizes: Sequence[int], shards_per_window: int, seed: int, complete: bool = False) -> None:
        """`shard_sizes`: samples of each finished shard; `complete` says that no more will come."""
        if shards_per_window < 1 or any(size < 0 for size in shard_sizes):
            raise ValueError(f"windows of {shards_per_window} shards of {list(shard_sizes)} samples are impossible")
        self.seed = seed
        starts = [0, *itertools.accumulate(shard_sizes)]
        self._starts = starts[::shards_per_window]
        if complete and self._starts[-1] < starts[-1]:
            self._starts.append(starts[-1])

    @property
    def num_known(self) -> int:
        """Positions whose sample is known: those of all windows whose shards are finished."""
        return self._starts[-1]

    def sample(self, position: int) -> int:
        """The sample at a position, counted through all shards. Raises ValueError for one that is not known yet."""
        return int(self.samples(position, position + 1)[0])

    def samples(self, start: int, stop: int) -> Positions:
        """The samples at positions [start, stop), shape (stop - start,). Raises ValueError beyond `num_known`."""
        if not 0 <= start <= stop <= self.num_known:
            raise ValueError(f"of positions {start} to {stop} only those below {self.num_known} are known")
        pieces = [np.empty(0, dtype=np.int64)]
        while start < stop:
            window = bisect.bisect_right(self._starts, start) - 1
            first, end = self._starts[window], self._starts[window + 1]
            size, until = end - first, min(stop, end)
            shuffled = Order(size, self.seed)  # a window's number takes the place of the epoch's
            pieces.append(first + shuffled.samples(window * size + start - first, window * size + until - first))
            start = until
        return np.concatenate(pieces)
