"""The order of training samples as arithmetic: position -> sample, in O(1) time and memory.

Every epoch is a keyed permutation of [0, n): a balanced Feistel network over the next even number of bits, walked
along its cycle until it lands inside (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). The
state of a data loader is therefore one integer, and the worker layout does not enter.
"""

from __future__ import annotations

import hashlib

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
