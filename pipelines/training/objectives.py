"""Objectives: a module that turns a batch into a loss, summed, so that the loop can divide by the global count.

Causal language modelling on packed documents: no token attends to another document and positions restart with each.
A document begins with the end-of-text token before it, so that its first word is predicted from that token alone,
at training as at generation. The mask is built once a batch and shared by all layers.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by `precision`


@dataclass
class Documents:
    """What keeps packed documents apart: positions (batch, length) int64; mask (batch, 1, length, length) bool."""

    positions: Tensor
    mask: Tensor


def documents(inputs: Tensor, eos_token_id: int) -> Documents | None:
    """Positions and mask of packed input tokens (batch, length); None where no sequence holds a boundary.

    Each end-of-text token begins a document.
    """
    starts = inputs == eos_token_id
    starts[:, 0] = True
    if int(starts.sum()) == len(inputs):
        return None
    length = inputs.size(1)
    index = torch.arange(length, device=inputs.device)
    begins = torch.where(starts, index, 0).cummax(dim=1).values
    # In causal order a token may see whatever is not before the beginning of its own document.
    mask = (index >= begins.unsqueeze(-1)) & (index <= index.unsqueeze(-1))
    return Documents(index - begins, mask.unsqueeze(1))


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
        self._sums = torch.zeros(len(self.names), dtype=torch.float64)

    def tell(self, *sums: Tensor) -> None:
        self._sums += torch.stack(sums).detach().cpu().double()

    def told(self) -> Tensor:
        """The sums since the last call, (len(names),) float64."""
        sums, self._sums = self._sums, torch.zeros_like(self._sums)
        return sums

    def autocast(self, batch: Tensor) -> torch.autocast:
        return torch.autocast(batch.device.type, self.half, enabled=self.half is not None)


class CausalLM(Objective):
    """Next-token prediction on packed documents: tokens (batch, length + 1) int64, padding negative; losses in nats.

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

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, labels = tokens[:, :-1], tokens[:, 1:]
        inputs = inputs.where(inputs >= 0, self.eos_token_id)
        packed = documents(inputs, self.eos_token_id)
        apart: dict[str, Tensor] = {}
        if packed:
            apart["attention_mask"] = packed.mask if self.fused else additive(packed.mask)
            if self.has_positions:
                apart["position_ids"] = packed.positions
        with self.autocast(tokens):
            logits = self.model(inputs, **apart, use_cache=False).logits
        logits, labels = logits.float().flatten(0, 1), labels.flatten()
        cross_entropy = F.cross_entropy(logits, labels, reduction="sum")
        if not (self.training and self.names):
            return cross_entropy
        self.tell(cross_entropy)
        loss = cross_entropy
        if self.label_smoothing:
            loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)
        if self.z_loss:
            loss = loss + self.z_loss * logits[labels >= 0].logsumexp(-1).square().sum()
        return loss
