"""Simple preference optimization: SimPO (Meng et al. 2024, arXiv:2405.14734, equation 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from pipelines.stages.alignment.offline.losses.loss import Answers, PreferenceLoss

if TYPE_CHECKING:
    from torch import Tensor


class Simpo(PreferenceLoss, frozen=True):
    """-log sigmoid(beta (mean log-probability of a token of the chosen - that of the rejected) - gamma)."""

    compares_with_start: ClassVar[bool] = False

    beta: Annotated[float, Meta(gt=0)] = 2.0
    """Scale of the reward (the paper: 2 to 10)."""
    gamma: Annotated[float, Meta(ge=0)] = 1.0
    """Margin by which the chosen answer's reward is to be higher (the paper: 0.3 to 1.6)."""

    def rewards(self, answers: Answers) -> Tensor:
        return self.beta * answers.means

    def of_pairs(self, chosen: Answers, rejected: Answers) -> Tensor:
        from torch.nn.functional import logsigmoid

        return -logsigmoid(self.rewards(chosen) - self.rewards(rejected) - self.gamma)
