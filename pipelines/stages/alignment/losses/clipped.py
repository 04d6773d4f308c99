"""PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, equation 7), which GRPO uses, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pipelines.stages.alignment.losses.loss import PolicyLoss

if TYPE_CHECKING:
    from torch import Tensor


class Clipped(PolicyLoss, frozen=True):
    """-min(rho A, clip(rho, 1 - low, 1 + high) A), and for A < 0 no more than dual |A|, with rho = pi / pi_engine."""

    low: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """How far below 1 the ratio counts."""
    high: Annotated[float, Meta(gt=0)] = 0.2
    """How far above 1 the ratio counts; DAPO's clip-higher takes 0.28 (Yu et al. 2025, arXiv:2503.14476)."""
    dual: Annotated[float, Meta(gt=1)] = 3.0
    """Bound on the loss of a token of a bad answer, in multiples of its advantage: dual clip (Ye et al. 2020,
    arXiv:1912.09729, c)."""

    def of(self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, learn: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        ratio = log_ratio.exp()
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - self.low, 1 + self.high) * advantages)
        gain = torch.where(advantages < 0, torch.maximum(gain, self.dual * advantages), gain)
        bad = (ratio < 1 - self.low) | (ratio > self.dual)
        return -gain, torch.where(advantages < 0, bad, ratio > 1 + self.high)
