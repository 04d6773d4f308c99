"""Clipping of whole answers: GSPO (Zheng et al. 2025, arXiv:2507.18071, equations 5 and 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pipelines.stages.alignment.losses.loss import PolicyLoss

if TYPE_CHECKING:
    from torch import Tensor


class Gspo(PolicyLoss, frozen=True):
    """-min(s A, clip(s, 1 - low, 1 + high) A), where s is the geometric mean of the ratios of an answer's tokens. The
    paper takes it once an answer: `rlhf.mean_over: answers`."""

    low: Annotated[float, Meta(gt=0, le=1)] = 3e-4
    """How far below 1 the ratio counts (of the paper)."""
    high: Annotated[float, Meta(gt=0)] = 4e-4
    """How far above 1 the ratio counts (of the paper)."""

    def of(self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, learn: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        mean = (log_ratio * learn).sum(1, keepdim=True) / learn.sum(1, keepdim=True).clamp(min=1)
        ratio = mean.exp().expand_as(log_ratio)
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - self.low, 1 + self.high) * advantages)
        return -gain, torch.where(advantages < 0, ratio < 1 - self.low, ratio > 1 + self.high)
