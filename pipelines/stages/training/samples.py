"""Samples of the objectives that draw something: which one a sequence is for, what is masked, where blanks are.

What is drawn is a function of a key: (seed, position in the run) in training, the sequence's number on held-out data.
Ranks, micro-batches and accumulation do not enter, and a run that goes on draws what it would have drawn. The kind is
drawn and not counted off, or it might keep step with the sources of a mixture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.core.storage.artifact import Artifact
from pipelines.specs import PretrainSpec
from pipelines.stages.tokens.stream import TokenStream, token_sources
from pipelines.stages.training.objectives.infilling import (
    DrawSpans,
    document_span,
    infill_sequence,
    sentence_spans,
    short_spans,
)
from pipelines.stages.training.objectives.markers import Markers, find_markers
from pipelines.stages.training.objectives.masking import Tokens, mask_tokens

Drawn = dict[str, Tokens]


class Sampler:
    """Turns sequences (length + 1,) into samples: arrays (length,), `inputs` and `labels` among them."""

    def __init__(self, shares: dict[str, float], masked_fraction: float, markers: Markers, eos_token_id: int) -> None:
        """`shares`: the objectives by name, none of them causal, with shares that add up to 1."""
        self.names, self.shares = list(shares), list(shares.values())
        self.masked_fraction = masked_fraction
        self.markers, self.eos_token_id = markers, eos_token_id
        self.ends = markers.sentence_ends() if "infilling_sentence" in shares else np.empty(0, np.bool_)

    def draw(self, sequence: Tokens, key: Sequence[int], name: str = "") -> Drawn:
        """The sample of a sequence: for the objective of that name, or for one of them all."""
        rng = np.random.default_rng(key)
        name = name or self.names[rng.choice(len(self.names), p=self.shares)]
        roles = self.markers.roles
        if name == "masked":
            found = mask_tokens(sequence[:-1], self.markers.ordinary, roles["mask"], self.masked_fraction, rng)
            return {"inputs": found.inputs, "labels": found.labels}
        kinds: dict[str, tuple[str, DrawSpans]] = {
            "infilling_short": ("mask", lambda text, rng: short_spans(len(text), self.masked_fraction, rng)),
            "infilling_sentence": ("sentence_mask", self._sentences),
            "infilling_document": ("document_mask", lambda text, rng: document_span(len(text), rng)),
        }
        mask, spans = kinds[name]
        return infill_sequence(sequence, self.eos_token_id, spans, (roles[mask], roles["start"], roles["end"]), rng)

    def batch(self, sequences: Tokens, keys: Iterable[Sequence[int]], name: str = "") -> dict[str, Tensor]:
        """The samples of sequences (number, length + 1), one key each, stacked: tensors (number, length) int64."""
        drawn = [self.draw(sequence, key, name) for sequence, key in zip(sequences, keys, strict=True)]
        return {field: torch.from_numpy(np.stack([one[field] for one in drawn])) for field in drawn[0]}

    def _sentences(self, text: Tokens, rng: np.random.Generator) -> list[tuple[int, int]]:
        ends = np.flatnonzero(self.ends[text]) + 1
        return sentence_spans(np.append(ends[ends < len(text)], len(text)), len(text), self.masked_fraction, rng)


def make_sampler(spec: PretrainSpec, tokens: Artifact, stream: TokenStream) -> Sampler | None:
    """What draws the samples of a run; None for causal ones, which are the sequences as they are.

    Raises InputError where the tokenizer lacks a token that an objective needs.
    """
    if spec.objective == "causal":
        return None
    tokenizer = next(iter(token_sources(tokens).values())).parent("tokenizer")
    return Sampler(
        spec.shares, spec.masked_fraction, find_markers(tokenizer, spec.shares, stream.vocab_size), stream.eos_token_id
    )


def count_labels(batch: Any) -> int:
    """How many tokens a batch asks for: of samples their labels, of causal sequences all but the first and padding."""
    labels = batch["labels"] if isinstance(batch, dict) else batch[:, 1:]
    return int((labels >= 0).sum())
