"""Short blanks, token by token (GLM)."""

from __future__ import annotations

import numpy as np

from pipelines.stages.training.objectives.infilling import BlankInfilling, Span
from pipelines.stages.training.objectives.markers import Tokens
from pipelines.stages.training.objectives.objective import Drawing

MEAN_SPAN_TOKENS = 3  # Poisson


def short_spans(length: int, fraction: float, rng: np.random.Generator) -> list[Span]:
    """Spans of Poisson(3) tokens, at least one, until a fraction of the text is masked (as published 15 %); a token is
    left between two, where need be by masking less."""
    wanted = max(1, round(fraction * length))
    sizes: list[int] = []
    while sum(sizes) < wanted:
        sizes.append(min(max(1, int(rng.poisson(MEAN_SPAN_TOKENS))), wanted - sum(sizes)))
    while sum(sizes) + len(sizes) - 1 > length:  # too short a text for so many blanks
        sizes.pop()
    rng.shuffle(sizes)
    # Spread what is left over before, between and after the spans, every way equally likely.
    free = length - sum(sizes) - (len(sizes) - 1)
    cuts = np.sort(rng.choice(free + len(sizes), len(sizes), replace=False)) - np.arange(len(sizes))
    spans, taken = [], 0
    for number, (cut, size) in enumerate(zip(cuts.tolist(), sizes, strict=True)):
        start = cut + taken + number
        spans.append((start, start + size))
        taken += size
    return spans


class ShortBlanks(BlankInfilling):
    mask = "mask"
    markers = (mask, "start", "end")

    @classmethod
    def spans(cls, text: Tokens, rng: np.random.Generator, drawing: Drawing) -> list[Span]:
        return short_spans(len(text), drawing.fraction, rng)


OBJECTIVE = ShortBlanks
