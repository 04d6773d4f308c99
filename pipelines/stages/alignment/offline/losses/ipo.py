"""Identity preference optimization: IPO (Azar et al. 2023, arXiv:2310.12036, equation 17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pipelines.stages.alignment.offline.losses.loss import Answers, PreferenceLoss

if TYPE_CHECKING:
    from torch import Tensor


class Ipo(PreferenceLoss, frozen=True):
    """(h - 1 / (2 tau))^2, with h the log ratio of the chosen less that of the rejected: bounded, where DPO's margin
    grows for as long as all labels agree."""

    tau: Annotated[float, Meta(gt=0)] = 0.1
    """Strength of the regularization: the margin that is aimed at is 1 / (2 tau)."""
    per_token: bool = True
    """Take an answer's mean log ratio of a token, as the authors did for what they published (says TRL, which asked
    them); false: the sum, as equation 17 reads."""

    def rewards(self, answers: Answers) -> Tensor:
        ratios = answers.log_ratios / answers.tokens if self.per_token else answers.log_ratios
        return self.tau * ratios

    def of_pairs(self, chosen: Answers, rejected: Answers) -> Tensor:
        h = (self.rewards(chosen) - self.rewards(rejected)) / self.tau
        return (h - 1 / (2 * self.tau)).square()
