"""Objectives: a module that turns a batch into a loss, summed, so that the loop can divide by the global count.

Language modelling on packed documents, causal, masked or by blanks: no token attends to another document and positions
restart with each. A document begins with the end-of-text token before it, so that its first word is predicted from that
token alone, at training as at generation. The mask is built once a batch and shared by all layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.stages.training.objectives.cross_entropy import cross_entropy
from pipelines.stages.training.parallel.ulysses import Chunk

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
    if int(starts.sum()) == len(inputs):
        return None
    length = inputs.size(1)
    index = torch.arange(length, device=inputs.device)
    begins = torch.where(starts, index, 0).cummax(dim=1).values
    if not causal:
        return Documents(index - begins, (begins.unsqueeze(-1) == begins.unsqueeze(-2)).unsqueeze(1))
    # In causal order a token may see whatever is not before the beginning of its own document.
    mask = (index >= begins.unsqueeze(-1)) & (index <= index.unsqueeze(-1))
    return Documents(index - begins, mask.unsqueeze(1))


def visible(documents: Tensor, block_positions: Tensor) -> Tensor:
    """Which tokens (rows) see which in texts with blanks, both (batch, length): bool (batch, 1, length, length).

    All see part A (block position 0) of their own document, and part B up to themselves.
    """
    index = torch.arange(documents.size(1), device=documents.device)
    mask = (block_positions == 0).unsqueeze(-2) | (index <= index.unsqueeze(-1))
    return (mask & (documents.unsqueeze(-1) == documents.unsqueeze(-2))).unsqueeze(1)


def additive(mask: Tensor) -> Tensor:
    """A mask as what unfused attention adds to its scores."""
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min)


class Objective(torch.nn.Module):
    """A model and what is asked of it: `forward` turns a batch into the sum of its losses (fp32, scalar).

    `names` are further sums that a subclass tells by `tell`, in that order, for the log.
    """

    names: tuple[str, ...] = ()

    def __init__(self, model: torch.nn.Module, precision: str) -> None:
        super().__init__()
        self.model = model
        self.half = HALVES.get(precision)
        self.chunk = Chunk()  # what the model tells the logits of
        self._sums = torch.zeros(len(self.names), dtype=torch.float64)

    def tell(self, *sums: Tensor) -> None:
        self._sums += torch.stack(sums).detach().cpu().double()

    def told(self) -> Tensor:
        """The sums since the last call, (len(names),) float64."""
        sums, self._sums = self._sums, torch.zeros_like(self._sums)
        return sums

    def autocast(self, batch: Tensor) -> torch.autocast:
        # A pass uses each weight once. The cache would hold a 16-bit copy until the pass ends, checkpointed or not.
        return torch.autocast(batch.device.type, self.half, enabled=self.half is not None, cache_enabled=False)


class LanguageModel(Objective):
    """Tells tokens; losses in nats.

    In training, `label_smoothing` and `z_loss` (log(Z)^2) are added, and `cross_entropy` is told without them; in
    evaluation the loss is the cross entropy.
    """

    def __init__(
        self, model: Any, eos_token_id: int, precision: str, z_loss: float = 0.0, label_smoothing: float = 0.0
    ) -> None:
        self.names = ("cross_entropy",) if z_loss or label_smoothing else ()
        super().__init__(model, precision)
        self.z_loss, self.label_smoothing = z_loss, label_smoothing
        self.eos_token_id = eos_token_id
        self.fused = model.config._attn_implementation != "eager"
        self.has_positions = "position_ids" in inspect.signature(model.forward).parameters  # ALiBi has none

    def apart(self, packed: Documents | None) -> dict[str, Tensor]:
        """What the model takes to keep documents apart."""
        if packed is None:
            return {}
        found = {"attention_mask": packed.mask if self.fused else additive(packed.mask)}
        return found | ({"position_ids": packed.positions} if self.has_positions else {})

    def summed(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits (batch, length, vocabulary) at labels (batch, length), of which negative ones are none.

        Where workers share sequences, the labels are whole and the logits those of this rank's chunk.
        """
        extra = (self.z_loss, self.label_smoothing) if self.training else ()
        loss, entropy = cross_entropy(logits.flatten(0, 1), self.chunk.of(labels, -100).flatten(), *extra)
        if self.training and self.names:
            self.tell(entropy)
        return loss


class CausalLM(LanguageModel):
    """Next-token prediction on packed documents: tokens (batch, length + 1) int64, padding negative."""

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, labels = tokens[:, :-1], tokens[:, 1:]
        inputs = inputs.where(inputs >= 0, self.eos_token_id)
        apart = self.apart(documents(inputs, self.eos_token_id))
        with self.autocast(tokens):
            logits = self.model(inputs, **apart, use_cache=False).logits
        return self.summed(logits, labels)


class MaskedLM(LanguageModel):
    """What masked tokens were, on packed documents: `inputs` and `labels` (batch, length) int64, padding negative."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = batch["inputs"].where(batch["inputs"] >= 0, self.eos_token_id)
        apart = self.apart(documents(inputs, self.eos_token_id, causal=False))
        with self.autocast(inputs):
            logits = self.model(inputs, **apart).logits
        return self.summed(logits, batch["labels"])


class BlankInfilling(LanguageModel):
    """The blanks of texts, token by token: `inputs`, `labels`, `positions`, `block_positions` and `documents` as
    `infill_sequence` makes them, each (batch, length) int64."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        mask = visible(batch["documents"], batch["block_positions"])
        positions = torch.stack([batch["positions"], batch["block_positions"]], dim=1)
        with self.autocast(mask):
            logits = self.model(batch["inputs"], position_ids=positions, attention_mask=mask).logits
        return self.summed(logits, batch["labels"])


OBJECTIVES: dict[str, type[LanguageModel]] = {"causal": CausalLM, "masked": MaskedLM, "infilling": BlankInfilling}


def objective_for(shares: Iterable[str]) -> type[LanguageModel]:
    """The objective of a run, whose objectives of `PretrainSpec` are of one kind."""
    return OBJECTIVES[next(iter(shares)).partition("_")[0]]
