"""How much larger a perplexity is than another's on the same texts, and how sure that is.

The tokens of one text depend on one another, so it is texts that count as drawn: the interval is that of a ratio of two
sums over texts (Cochran, Sampling Techniques, 1977, section 6.4), of the nats that were lost more and of the tokens.
Pairs tell far smaller differences than two perplexities with an interval each would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Nats = Sequence[Sequence[float]]  # of each text, of each token that counts: -log of its probability

TWO_SIDED = 1.96  # standard errors: 95 %


@dataclass(frozen=True)
class Change:
    """`share` 0.01: a perplexity that is 1 % larger; `interval`: 95 % of such, None of a single text."""

    share: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, before: Nats, after: Nats) -> Change:
        """Of the same tokens, in the same order."""
        sizes = [len(text) for text in before]
        lost = [sum(b) - sum(a) for a, b in zip(before, after, strict=True)]
        tokens, texts = sum(sizes), len(sizes)
        mean = sum(lost) / tokens
        if texts == 1:
            return cls(math.expm1(mean), None)
        squares = sum((nats - mean * size) ** 2 for nats, size in zip(lost, sizes, strict=True))
        error = math.sqrt(texts / (texts - 1) * squares) / tokens
        return cls(math.expm1(mean), (math.expm1(mean - TWO_SIDED * error), math.expm1(mean + TWO_SIDED * error)))


def perplexity(nats: Nats) -> float:
    """Of all tokens of all texts alike."""
    return math.exp(math.fsum(map(math.fsum, nats)) / sum(map(len, nats)))
