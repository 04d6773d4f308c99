"""Clipped weights of importance sampling: CISPO (MiniMax-M1, arXiv:2506.13585, equations 4 and 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pipelines.stages.alignment.losses.loss import PolicyLoss

if TYPE_CHECKING:
    from torch import Tensor


class Cispo(PolicyLoss, frozen=True):
    """-min(rho, 1 + high) A log pi, the weight held fixed: no token loses its gradient, however far the ratio is."""

    high: Annotated[float, Meta(gt=0)] = 4.0
    """How far above 1 the weight may be; the paper bounds it from above only and does not publish its value (ours)."""

    def of(self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, learn: Tensor) -> tuple[Tensor, Tensor]:
        ratio = log_ratio.detach().exp()
        return -ratio.clamp(max=1 + self.high) * advantages * logprobs, ratio > 1 + self.high
