"""The later half of a document or more as a blank, token by token (GLM)."""

from __future__ import annotations

import numpy as np

from pipelines.stages.training.objectives.infilling import BlankInfilling, Span
from pipelines.stages.training.objectives.markers import Tokens
from pipelines.stages.training.objectives.objective import Drawing

SHORTEST_DOCUMENT = 0.5  # of a text, when its end is to be generated


def document_span(length: int, rng: np.random.Generator) -> list[Span]:
    """The end of the text, 50 to 100 % of it, uniformly."""
    size = int(np.ceil(length * rng.uniform(SHORTEST_DOCUMENT, 1.0)))
    return [(length - size, length)]


class DocumentBlanks(BlankInfilling):
    mask = "document_mask"
    markers = (mask, "start", "end")

    @classmethod
    def spans(cls, text: Tokens, rng: np.random.Generator, drawing: Drawing) -> list[Span]:
        return document_span(len(text), rng)


OBJECTIVE = DocumentBlanks
