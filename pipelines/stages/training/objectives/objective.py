"""Objectives: a module that turns a batch into a loss, summed, so that the loop can divide by the global count.

Those of pretraining, language models on packed documents, say besides what a sample of a sequence is and which models
learn them. No token attends to another document and positions restart with each. A document begins with the end-of-text
token before it, so that its first word is predicted from that token alone, at training as at generation. The mask is
built once a batch and shared by all layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipelines.stages.training.objectives.cross_entropy import cross_entropy
from pipelines.stages.training.objectives.markers import Markers, Tokens
from pipelines.stages.training.parallel.sequence_part import SequencePart

NO_LABEL = -100
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by `precision`


@dataclass
class Documents:
    """What keeps packed documents apart: positions (batch, length) int64; mask (batch, 1, length, length) bool."""

    positions: Tensor
    mask: Tensor


def documents(inputs: Tensor, eos_token_id: int, causal: bool = True) -> Documents | None:
    """Positions and mask of packed input tokens (batch, length); None where no sequence holds a boundary.

    Each end-of-text token begins a document. Not `causal`: a token also sees what is behind it in its document.
    """
    starts = inputs == eos_token_id
    starts[:, 0] = True
    return apart_from(starts, causal)


def apart_from(starts: Tensor, causal: bool = True) -> Documents | None:
    """The same by where documents start, (batch, length) bool; every row starts with one."""
    if int(starts.sum()) == len(starts):
        return None
    index = torch.arange(starts.size(1), device=starts.device)
    positions = restarting(starts)
    begins = index - positions
    if not causal:
        return Documents(positions, (begins.unsqueeze(-1) == begins.unsqueeze(-2)).unsqueeze(1))
    # In causal order a token may see whatever is not before the beginning of its own document.
    mask = (index >= begins.unsqueeze(-1)) & (index <= index.unsqueeze(-1))
    return Documents(positions, mask.unsqueeze(1))


def restarting(starts: Tensor) -> Tensor:
    """Positions (batch, length) int64 that begin again wherever a document starts."""
    index = torch.arange(starts.size(1), device=starts.device)
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def keeping_apart(model: Any, packed: Documents | None) -> dict[str, Tensor]:
    """What a model takes to keep documents apart."""
    if packed is None:
        return {}
    fused = model.config._attn_implementation != "eager"
    found = {"attention_mask": packed.mask if fused else additive(packed.mask)}
    takes = inspect.signature(model.forward).parameters
    return found | ({"position_ids": packed.positions} if "position_ids" in takes else {})  # ALiBi has none


def additive(mask: Tensor) -> Tensor:
    """A mask as what unfused attention adds to its scores."""
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min)


class Objective(torch.nn.Module):
    """A model and what is asked of it: `forward` turns a batch into the sum of its losses (fp32, scalar).

    `names` are further sums that a subclass adds by `add_sums`, in that order, for the log.
    """

    names: tuple[str, ...] = ()

    def __init__(self, model: torch.nn.Module, precision: str) -> None:
        super().__init__()
        self.model = model
        self.half = HALVES.get(precision)
        self.sequence_part = SequencePart()  # what the model tells the logits of
        self.step = 0  # that is being taken: what is drawn at random is a function of it
        self._sums = torch.zeros(len(self.names), dtype=torch.float64)

    def beside(self) -> Sequence[tuple[torch.nn.Module, float]]:
        """What is trained beside the model, parts of this module, each with the factor on its learning rates."""
        return ()

    def add_sums(self, *sums: Tensor) -> None:
        self._sums += torch.stack(sums).detach().cpu().double()

    def pop_sums(self) -> Tensor:
        """The sums since the last call, (len(names),) float64."""
        sums, self._sums = self._sums, torch.zeros_like(self._sums)
        return sums

    def autocast(self, batch: Tensor) -> torch.autocast:
        # A pass uses each weight once. The cache would hold a 16-bit copy until the pass ends, checkpointed or not.
        return torch.autocast(batch.device.type, self.half, enabled=self.half is not None, cache_enabled=False)


@dataclass(frozen=True)
class Drawing:
    """What samples are drawn with: the share of the tokens to ask for, and what the tokenizer has for objectives."""

    fraction: float
    markers: Markers
    eos_token_id: int


class LanguageModel(Objective):
    """Tells tokens; losses in nats. An objective of pretraining is a subclass, `OBJECTIVE` of the module of its name.

    In training, `label_smoothing` and `z_loss` (log(Z)^2) are added, and `cross_entropy` is logged without them; in
    evaluation the loss is the cross entropy.
    """

    draws: ClassVar[bool] = True
    """Whether samples are drawn by `draw`; where not, a batch is sequences as they are, (batch, length + 1) int64."""
    markers: ClassVar[tuple[str, ...]] = ()
    """Roles (`markers.NAMES`) of the tokens that it puts into a text."""
    families: ClassVar[tuple[str, ...]] = ()
    """Families of models (`model_type`) that learn it; none: all of transformers' causal language models."""
    head: ClassVar[str] = "AutoModelForCausalLM"
    """transformers' class that makes a model of `families`."""
    unfit: ClassVar[str] = "does not read from left to right and would see what it is to predict"
    """Why another family does not learn it."""
    shares_sequences: ClassVar[bool] = False
    """Whether workers can share a sequence of it (scaling.sequence_parallel_size)."""

    @classmethod
    def draw(cls, sequence: Tokens, rng: np.random.Generator, drawing: Drawing) -> dict[str, Tokens]:
        """A sample of a sequence (length + 1,): arrays (length,), `inputs` and `labels` (NO_LABEL: nothing is asked)
        among them, a function of its arguments alone."""
        raise NotImplementedError

    @staticmethod
    def count_labels(batch: Any) -> int:
        """How many tokens a batch asks for: what its loss is a sum over."""
        return int((batch["labels"] >= 0).sum())

    def __init__(
        self, model: Any, eos_token_id: int, precision: str, z_loss: float = 0.0, label_smoothing: float = 0.0
    ) -> None:
        self.names = ("cross_entropy",) if z_loss or label_smoothing else ()
        super().__init__(model, precision)
        self.z_loss, self.label_smoothing = z_loss, label_smoothing
        self.eos_token_id = eos_token_id

    def apart(self, packed: Documents | None) -> dict[str, Tensor]:
        """What the model takes to keep documents apart."""
        return keeping_apart(self.model, packed)

    def summed(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits (batch, length, vocabulary) at labels (batch, length), of which negative ones are none.

        Where workers share sequences, the labels are whole and the logits those of this rank's part.
        """
        extra = (self.z_loss, self.label_smoothing) if self.training else ()
        loss, entropy = cross_entropy(logits.flatten(0, 1), self.sequence_part.of(labels, -100).flatten(), *extra)
        if self.training and self.names:
            self.add_sums(entropy)
        return loss
