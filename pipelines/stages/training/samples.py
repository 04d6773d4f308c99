"""Samples of the objectives that draw something: which one a sequence is for, what is masked, where blanks are.

What is drawn is a function of a key: (seed, position in the run) in training, the sequence's number on held-out data.
Ranks, micro-batches and accumulation do not enter, and a run that goes on draws what it would have drawn. The kind is
drawn and not counted off, or it might keep step with the sources of a mixture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from cluster.core.storage.artifact import Artifact
from pipelines.specs import PretrainSpec
from pipelines.stages.tokens.stream import TokenStream, token_sources
from pipelines.stages.training.objectives.markers import Tokens, find_markers
from pipelines.stages.training.objectives.objective import Drawing
from pipelines.stages.training.objectives.objectives import OBJECTIVES, objective_for


class Sampler:
    """Turns sequences (length + 1,) into samples: arrays (length,), `inputs` and `labels` among them."""

    def __init__(self, shares: dict[str, float], drawing: Drawing) -> None:
        """`shares`: objectives that draw, by name, with shares that add up to 1."""
        self.names, self.shares = list(shares), list(shares.values())
        self.drawing = drawing

    def draw(self, sequence: Tokens, key: Sequence[int], name: str = "") -> dict[str, Tokens]:
        """The sample of a sequence: for the objective of that name, or for one of them all."""
        rng = np.random.default_rng(key)
        name = name or self.names[rng.choice(len(self.names), p=self.shares)]
        return OBJECTIVES[name].draw(sequence, rng, self.drawing)

    def batch(self, sequences: Tokens, keys: Iterable[Sequence[int]], name: str = "") -> dict[str, Tensor]:
        """The samples of sequences (number, length + 1), one key each, stacked: tensors (number, length) int64."""
        drawn = [self.draw(sequence, key, name) for sequence, key in zip(sequences, keys, strict=True)]
        return {field: torch.from_numpy(np.stack([one[field] for one in drawn])) for field in drawn[0]}


def make_sampler(spec: PretrainSpec, tokens: Artifact, stream: TokenStream) -> Sampler | None:
    """What draws the samples of a run; None where they are the sequences as they are.

    Raises InputError where the tokenizer lacks a token that an objective needs.
    """
    if not objective_for(spec.shares).draws:
        return None
    tokenizer = next(iter(token_sources(tokens).values())).parent("tokenizer")
    wanted = {role for name in spec.shares for role in OBJECTIVES[name].markers}
    markers = find_markers(tokenizer, wanted, stream.vocab_size)
    return Sampler(spec.shares, Drawing(spec.masked_fraction, markers, stream.eos_token_id))
