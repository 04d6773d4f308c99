"""Odds ratio preference optimization: ORPO (Hong et al. 2024, arXiv:2403.07691, equations 6 and 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from pipelines.stages.alignment.offline.losses.loss import Answers, PreferenceLoss

if TYPE_CHECKING:
    from torch import Tensor

SURE = -1e-6  # a mean log-probability above it counts as this one: of a sure answer the odds are infinite


class Orpo(PreferenceLoss, frozen=True):
    """The chosen answer's NLL of a token - weight log sigmoid(log odds of the chosen - log odds of the rejected), of
    the mean probability of an answer's token. Tuning and alignment in one: it may start from a base model."""

    compares_with_start: ClassVar[bool] = False

    weight: Annotated[float, Meta(gt=0)] = 0.1
    """Weight of the odds ratio (lambda)."""

    def rewards(self, answers: Answers) -> Tensor:
        """The log odds, ln(p / (1 - p))."""
        import torch

        means = answers.means.clamp(max=SURE)
        return means - torch.log(-torch.expm1(means))

    def of_pairs(self, chosen: Answers, rejected: Answers) -> Tensor:
        from torch.nn.functional import logsigmoid

        return -chosen.means - self.weight * logsigmoid(self.rewards(chosen) - self.rewards(rejected))
