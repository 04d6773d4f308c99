"""Direct preference optimization: DPO (Rafailov et al. 2023, arXiv:2305.18290, equation 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pipelines.stages.alignment.offline.losses.loss import Answers, PreferenceLoss

if TYPE_CHECKING:
    from torch import Tensor


class Dpo(PreferenceLoss, frozen=True):
    """-(1 - s) log sigmoid(h) - s log sigmoid(-h), with h = beta (log ratio of the chosen - that of the rejected)."""

    beta: Annotated[float, Meta(gt=0)] = 0.1
    """Strength of the KL constraint: the higher, the nearer to the reference."""
    label_smoothing: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that are taken to be labelled the wrong way round (s; conservative DPO: Mitchell 2023, "A note
    on DPO with noisy preferences", equation 4)."""

    def rewards(self, answers: Answers) -> Tensor:
        return self.beta * answers.log_ratios

    def of_pairs(self, chosen: Answers, rejected: Answers) -> Tensor:
        from torch.nn.functional import logsigmoid

        h = self.rewards(chosen) - self.rewards(rejected)
        return -(1 - self.label_smoothing) * logsigmoid(h) - self.label_smoothing * logsigmoid(-h)
