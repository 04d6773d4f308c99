"""Mixtures of sources as arithmetic: position -> (source, index in the source's own stream), without state.

A Huffman tree over integer weights splits the positions in two at every node: of its first m, the left child has had
m * p / q, rounded. Every prefix of n positions holds n * w_k of source k to within 1.68, however many sources there
are; Tijdeman (1980, "The chairman assignment problem") shows that no order does better than 1 - 1 / (2K - 2) for all.

Why 1.68: each split adds at most 1/2, and what came from above shrinks with the child's share, so that the error of a
leaf is at most w/2 * sum(1 / W_a) over itself and its ancestors but the root. In a Huffman tree a node's sibling weighs
no less than either of its children, so that on the way up W_a / w is at least 1, 1, 2, 3, 5, ...: Fibonacci numbers,
whose reciprocals add up to 3.36. The mean depth is below 1 + log2(K) for the same reason that Huffman codes are short.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipelines.stages.tokens.order import Order, Positions

MAX_PARTS = 2**31  # the sum of the weights of a mixture: (m % q) * p + q // 2 then fits 63 bits
MAX_DEVIATION = 1.68


def whole_weights(weights: Sequence[float]) -> list[int]:
    """Integers in the same proportions, with no common divisor.

    A float counts as the shortest decimal that reads back as it: 0.1 is a tenth. Only where the integers would add up
    to more than 2**31 are they rounded, to parts in 2**30, and at least one for a weight that is not zero.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    parts = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*parts) or 1
    parts = [part // divisor for part in parts]
    total = sum(parts)
    if total > MAX_PARTS:
        parts = [max(1, round(Fraction(part * MAX_PARTS, 2 * total))) if part else 0 for part in parts]
    return parts


@dataclass(frozen=True)
class _Node:
    """A split: of any m positions in a row from its start, about m * p / q go left. A leaf has p = 0 and a source."""

    weight: int
    source: int = -1
    left: _Node | None = None
    right: _Node | None = None

    def went_left(self, m: int) -> int:
        """How many of the first m positions go left. Exact for m below 2**62."""
        assert self.left
        return (m * self.left.weight + self.weight // 2) // self.weight

    def all_went_left(self, m: Positions) -> Positions:
        """The same for every element, without leaving 64 bits."""
        assert self.left
        p, q = self.left.weight, self.weight
        whole, rest = np.divmod(m, q)
        return whole * p + (rest * p + q // 2) // q


def _tree(weights: Sequence[int]) -> _Node:
    heap = [(weight, number, _Node(weight, number)) for number, weight in enumerate(weights) if weight]
    heapq.heapify(heap)
    for number in range(len(weights), len(weights) + len(heap) - 1):  # numbers settle ties, so that none is random
        (_, _, left), (_, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        weight = left.weight + right.weight
        heapq.heappush(heap, (weight, number, _Node(weight, left=left, right=right)))
    return heap[0][2]


class Mixture:
    """Positions 0, 1, ... below 2**62, shared out among sources in the proportions of integer weights."""

    def __init__(self, weights: Sequence[int]) -> None:
        if not weights or min(weights) < 0 or not 1 <= sum(weights) <= MAX_PARTS:
            raise ValueError(f"weights must be integers of at least 0 that add up to 1 ... 2**31, not {list(weights)}")
        self.weights = list(weights)
        self._root = _tree(weights)

    def counts(self, n: int) -> list[int]:
        """How many of the first n positions each source has; within MAX_DEVIATION of n * weight / sum of weights."""
        found = [0] * len(self.weights)
        todo = [(self._root, n)]
        while todo:
            node, m = todo.pop()
            if node.left and node.right:
                left = node.went_left(m)
                todo += [(node.left, left), (node.right, m - left)]
            else:
                found[node.source] = m
        return found

    def place(self, position: int) -> tuple[int, int]:
        """The source at a position, and how many positions before it the source had."""
        node = self._root
        while node.left and node.right:
            left = node.went_left(position)
            goes_left = node.went_left(position + 1) > left
            node, position = (node.left, left) if goes_left else (node.right, position - left)
        return node.source, position

    def places(self, start: int, stop: int) -> tuple[Positions, Positions]:
        """`place` of the positions [start, stop): sources and indices, each of shape (stop - start,)."""
        sources, indices = np.empty(stop - start, dtype=np.int64), np.empty(stop - start, dtype=np.int64)
        todo = [(self._root, start, np.arange(stop - start))]
        while todo:
            node, first, where = todo.pop()
            if not len(where):
                continue
            if node.left and node.right:
                left = node.all_went_left(np.arange(first, first + len(where) + 1))
                goes_left = left[1:] > left[:-1]
                had_left = int(left[0])
                todo += [(node.left, had_left, where[goes_left]), (node.right, first - had_left, where[~goes_left])]
            else:
                sources[where] = node.source
                indices[where] = np.arange(first, first + len(where))
        return sources, indices


class Curriculum:
    """Mixtures one after another: phase i has the positions from the end of phase i - 1 up to its own.

    Every source's stream goes on where the phase before left it. The last phase has no end.
    """

    def __init__(self, ends: Sequence[int], weights: Sequence[Sequence[int]]) -> None:
        """`ends` of all phases but the last, in order; `weights` of every phase, one for each source."""
        starts = [0, *ends]
        if len(starts) != len(weights) or sorted(starts) != starts or len({len(given) for given in weights}) != 1:
            raise ValueError(f"{len(weights)} phases of as many sources cannot start at {starts}")
        self.num_phases, self.num_sources = len(weights), len(weights[0])
        self._starts = starts
        self._mixtures = [Mixture(given) for given in weights]
        self._before = [[0] * self.num_sources]
        for number, end in enumerate(ends):
            self._before.append(self._counts(number, end))

    def _counts(self, phase: int, n: int) -> list[int]:
        within = self._mixtures[phase].counts(n - self._starts[phase])
        return [before + count for before, count in zip(self._before[phase], within, strict=True)]

    def counts(self, n: int) -> list[int]:
        """How many of the first n positions each source has."""
        return self._counts(bisect.bisect_right(self._starts, n) - 1, n)

    def shares(self, n: int) -> list[float]:
        """The weights of the first n positions: those of the phases, each by its part of them. They add up to 1."""
        exact = [Fraction(0)] * self.num_sources
        for start, end, mixture in zip(self._starts, [*self._starts[1:], n], self._mixtures, strict=True):
            length = max(0, min(end, n) - start)
            total = sum(mixture.weights)
            exact = [share + Fraction(length * w, n * total) for share, w in zip(exact, mixture.weights, strict=True)]
        return [float(share) for share in exact]

    def place(self, position: int) -> tuple[int, int]:
        """The source at a position, and how many positions before it the source had."""
        phase = bisect.bisect_right(self._starts, position) - 1
        source, index = self._mixtures[phase].place(position - self._starts[phase])
        return source, self._before[phase][source] + index

    def places(self, start: int, stop: int) -> tuple[Positions, Positions]:
        """`place` of the positions [start, stop): sources and indices, each of shape (stop - start,)."""
        sources, indices = np.empty(stop - start, dtype=np.int64), np.empty(stop - start, dtype=np.int64)
        begin = start
        while begin < stop:
            phase = bisect.bisect_right(self._starts, begin) - 1
            first, end = self._starts[phase], min([stop, *self._starts[phase + 1 : phase + 2]])
            found, within = self._mixtures[phase].places(begin - first, end - first)
            sources[begin - start : end - start] = found
            indices[begin - start : end - start] = within + np.array(self._before[phase])[found]
            begin = end
        return sources, indices


class MixedOrder:
    """Which sample of which source is at a position: the j-th of source k is the j-th of its own `Order`."""

    def __init__(self, orders: Sequence[Order], curriculum: Curriculum) -> None:
        if len(orders) != curriculum.num_sources:
            raise ValueError(f"{len(orders)} orders for {curriculum.num_sources} sources")
        self.orders = list(orders)
        self.curriculum = curriculum

    def sample(self, position: int) -> tuple[int, int]:
        """The source at a position, and which of its samples."""
        source, index = self.curriculum.place(position)
        return source, self.orders[source].sample(index)

    def samples(self, start: int, stop: int) -> tuple[Positions, Positions]:
        """`sample` of the positions [start, stop): sources and samples, each of shape (stop - start,)."""
        sources, indices = self.curriculum.places(start, stop)
        samples = np.empty_like(indices)
        for number, order in enumerate(self.orders):
            mine = sources == number
            if mine.any():  # within a range, a source's indices follow one another
                found = indices[mine]
                samples[mine] = order.samples(int(found[0]), int(found[-1]) + 1)
        return sources, samples

    def shares(self, n: int) -> list[float]:
        """The weights of the first n positions, which add up to 1."""
        return self.curriculum.shares(n)

    def epochs(self, n: int) -> list[float]:
        """How often the first n positions go through each source."""
        return [count / order.num_samples for count, order in zip(self.curriculum.counts(n), self.orders, strict=True)]
