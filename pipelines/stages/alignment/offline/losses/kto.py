"""Kahneman-Tversky optimization: KTO (Ethayarajh et al. 2024, arXiv:2402.01306, equation 8 and section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from pipelines.stages.alignment.offline.losses.loss import Answers, PreferenceLoss

if TYPE_CHECKING:
    from torch import Tensor


class Kto(PreferenceLoss, frozen=True):
    """weight (1 - sigmoid(beta (r - z))) of a desirable answer, weight (1 - sigmoid(beta (z - r))) of another, with r
    its log ratio and z = max(0, baseline), held fixed. No answer needs a counterpart."""

    paired: ClassVar[bool] = False

    beta: Annotated[float, Meta(gt=0)] = 0.1
    """Risk aversion, and with it the nearness to the reference."""
    desirable_weight: Annotated[float, Meta(gt=0)] = 1.0
    """Weight of desirable answers (lambda_D): with fewer of them than of the others, more (the paper: weight times
    number between 1 and 4/3 of that of the others)."""
    undesirable_weight: Annotated[float, Meta(gt=0)] = 1.0
    """Weight of undesirable answers (lambda_U)."""

    def rewards(self, answers: Answers) -> Tensor:
        return self.beta * answers.log_ratios

    def of_each(self, answers: Answers, desirable: Tensor, baseline: Tensor) -> Tensor:
        import torch

        above = self.rewards(answers) - self.beta * baseline.detach().clamp(min=0)
        signed = torch.where(desirable, above, -above)
        sides = desirable.to(above.dtype)
        weights = sides * self.desirable_weight + (1 - sides) * self.undesirable_weight
        return weights * torch.sigmoid(-signed)  # 1 - sigmoid(x), without its rounding
