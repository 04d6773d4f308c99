"""Autoregressive blank infilling (GLM: Du et al. 2022, arXiv:2103.10360, section 2.1).

Spans of a text are each replaced by one mask token: part A. Behind it, part B, come the spans in random order, each
begun by a start token as input and ended by an end token as target. Part A sees all of itself; a token of part B sees
part A and what of part B is before it. Every token has two positions: the one in part A (for a span: that of its mask)
and the one within its span (0 in part A). Each document of a packed sequence gets blanks of its own.

Which spans are blanks is what the objectives differ in: infilling_short.py, infilling_sentence.py,
infilling_document.py. They may be mixed on one model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipelines.stages.training.models.sizes import BLANK_GLM
from pipelines.stages.training.objectives.markers import Tokens
from pipelines.stages.training.objectives.objective import NO_LABEL, Drawing, LanguageModel

Span = tuple[int, int]  # [start, stop)
DrawSpans = Callable[[Tokens, np.random.Generator], list[Span]]


@dataclass(frozen=True)
class Blanks:
    """A text with blanks, all arrays of one length: part A, then part B."""

    inputs: Tokens
    labels: Tokens  # NO_LABEL in part A
    positions: Tokens
    block_positions: Tokens  # 0 in part A only


def infill(tokens: Tokens, spans: list[Span], order: list[int], mask: int, start: int, end: int) -> Blanks:
    """Cut ascending, disjoint, non-empty spans out of a text, and append them in `order`.

    `mask` stands in a span's place; it begins with the token `start` and ends with the label `end`.
    Raises ValueError where two spans touch: nobody could tell their masks apart.
    """
    if any(following[0] <= span[1] for span, following in itertools.pairwise(spans)):
        raise ValueError(f"spans must ascend and leave a token between them: {spans}")
    corrupted: list[int] = []
    mask_positions = []
    before = 0
    for first, stop in spans:
        corrupted += tokens[before:first].tolist()
        mask_positions.append(len(corrupted))
        corrupted.append(mask)
        before = stop
    corrupted += tokens[before:].tolist()
    prefix = len(corrupted)
    inputs, labels = list(corrupted), [NO_LABEL] * prefix
    positions, block_positions = list(range(prefix)), [0] * prefix
    for number in order:
        first, stop = spans[number]
        inside = tokens[first:stop].tolist()
        inputs += [start, *inside]
        labels += [*inside, end]
        positions += [mask_positions[number]] * (len(inside) + 1)
        block_positions += range(1, len(inside) + 2)
    arrays = (np.array(values, dtype=np.int64) for values in (inputs, labels, positions, block_positions))
    return Blanks(*arrays)


def infill_sequence(
    sequence: Tokens, eos_token_id: int, draw: DrawSpans, ids: tuple[int, int, int], rng: np.random.Generator
) -> dict[str, Tokens]:
    """Blanks in each document of a packed sequence (length + 1,), one document behind the other; arrays (length,).

    Each end-of-text token begins a document and is never in a blank. As parts A and B of all documents have `length`
    tokens at most, the last document that fits is cut, and what is behind it is left out: two tokens for each blank, a
    tenth of the text for short ones. `documents` numbers the documents, -1 behind them. `ids`: mask, start and end; a
    blank at a document's end that is not known has no end to predict.
    """
    room = len(sequence) - 1
    text = sequence[: np.count_nonzero(sequence >= 0)]
    bounds = [0, *(np.flatnonzero(text[1:room] == eos_token_id) + 1).tolist(), min(len(text), room)]
    found: list[Blanks] = []
    for start, stop in itertools.pairwise(bounds):
        left = room - sum(len(blanks.inputs) for blanks in found)
        blanks = _infill_document(text[start:stop], text[stop : stop + 1], eos_token_id, draw, ids, rng, left)
        if blanks:
            found.append(blanks)
    arrays = {field.name: [getattr(blanks, field.name) for blanks in found] for field in fields(Blanks)}
    arrays["documents"] = [np.full(len(blanks.inputs), number) for number, blanks in enumerate(found)]
    fill = {"inputs": eos_token_id, "labels": NO_LABEL, "documents": -1}
    return {name: _filled(pieces, room, fill.get(name, 0)) for name, pieces in arrays.items()}


def _infill_document(
    document: Tokens, following: Tokens, eos_token_id: int, draw: DrawSpans, ids: tuple[int, int, int],
    rng: np.random.Generator, room: int,
) -> Blanks | None:  # fmt: skip
    """Blanks in as much of a document as `room` allows; None where that is nothing."""
    begin = int(document[0] == eos_token_id)
    length, spans = len(document), list[Span]()
    while length > begin:
        spans = [(first + begin, stop + begin) for first, stop in draw(document[begin:length], rng)]
        excess = length + 2 * len(spans) - room
        if excess <= 0:
            break
        length -= excess
    else:
        return None
    blanks = infill(document[:length], spans, rng.permutation(len(spans)).tolist(), *ids)
    ends = length == len(document) and len(following) and following[0] == eos_token_id
    if not ends and spans[-1][1] == length:  # the text goes on: where this blank ends is not known
        last = np.flatnonzero(blanks.labels == ids[2])
        position = np.count_nonzero(blanks.block_positions == 0) - 1
        blanks.labels[last[blanks.positions[last] == position]] = NO_LABEL
    return blanks


def _filled(pieces: list[Tokens], length: int, value: int) -> Tokens:
    padding = length - sum(map(len, pieces))
    return np.concatenate([*pieces, np.full(padding, value, dtype=np.int64)])


def visible(documents: Tensor, block_positions: Tensor) -> Tensor:
    """Which tokens (rows) see which in texts with blanks, both (batch, length): bool (batch, 1, length, length).

    All see part A (block position 0) of their own document, and part B up to themselves.
    """
    index = torch.arange(documents.size(1), device=documents.device)
    mask = (block_positions == 0).unsqueeze(-2) | (index <= index.unsqueeze(-1))
    return (mask & (documents.unsqueeze(-1) == documents.unsqueeze(-2))).unsqueeze(1)


class BlankInfilling(LanguageModel):
    """The blanks of texts, token by token: `inputs`, `labels`, `positions`, `block_positions` and `documents` as
    `infill_sequence` makes them, each (batch, length) int64."""

    mask: ClassVar[str]
    """The role of the token that stands in a blank's place."""
    families = (BLANK_GLM,)
    unfit = "has not been made for blanks"

    @classmethod
    def spans(cls, text: Tokens, rng: np.random.Generator, drawing: Drawing) -> list[Span]:
        """The spans of a text, of the tokens of one document, that become blanks."""
        raise NotImplementedError

    @classmethod
    def draw(cls, sequence: Tokens, rng: np.random.Generator, drawing: Drawing) -> dict[str, Tokens]:
        roles = drawing.markers.roles
        ids = (roles[cls.mask], roles["start"], roles["end"])
        return infill_sequence(
            sequence, drawing.eos_token_id, lambda text, rng: cls.spans(text, rng, drawing), ids, rng
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        mask = visible(batch["documents"], batch["block_positions"])
        positions = torch.stack([batch["positions"], batch["block_positions"]], dim=1)
        with self.autocast(mask):
            logits = self.model(batch["inputs"], position_ids=positions, attention_mask=mask).logits
        return self.summed(logits, batch["labels"])
