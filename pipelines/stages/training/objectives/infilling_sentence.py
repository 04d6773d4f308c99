"""Whole sentences as blanks, token by token (GLM)."""

from __future__ import annotations

import itertools

import numpy as np

from pipelines.stages.training.objectives.infilling import BlankInfilling, Span
from pipelines.stages.training.objectives.markers import Tokens
from pipelines.stages.training.objectives.objective import Drawing


def sentence_spans(ends: Tokens, length: int, fraction: float, rng: np.random.Generator) -> list[Span]:
    """Whole sentences until a fraction of the text is masked (as published 15 %), no two of them next to each other.

    `ends` are the positions behind each sentence, ascending, the last `length`.
    """
    bounds = [0, *ends.tolist()]
    sentences = [(start, stop) for start, stop in itertools.pairwise(bounds) if stop > start]
    chosen: set[int] = set()
    masked = 0
    for number in rng.permutation(len(sentences)).tolist():
        if masked >= fraction * length:
            break
        if number - 1 not in chosen and number + 1 not in chosen:
            chosen.add(number)
            masked += sentences[number][1] - sentences[number][0]
    return [sentences[number] for number in sorted(chosen)]


class SentenceBlanks(BlankInfilling):
    mask = "sentence_mask"
    markers = (mask, "start", "end")

    @classmethod
    def spans(cls, text: Tokens, rng: np.random.Generator, drawing: Drawing) -> list[Span]:
        ends = np.flatnonzero(drawing.markers.sentence_ends[text]) + 1
        return sentence_spans(np.append(ends[ends < len(text)], len(text)), len(text), drawing.fraction, rng)


OBJECTIVE = SentenceBlanks
