"""An answer against all of its rollout (REINFORCE++: Hu et al. 2025, arXiv:2501.03262)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipelines.stages.alignment.advantages.advantage import (
    EPSILON,
    Advantage,
    Drawn,
    Judged,
    discounted,
    whitened,
)

if TYPE_CHECKING:
    from torch import Tensor


class NormalizedBatch(Advantage, frozen=True):
    """The reward, minus its group's mean where asked for, with the mean and the standard deviation of the whole rollout
    taken out: one hard prompt does not set the scale of its own. With rewards of steps, of each token the sum of its
    reward and of all later ones, and mean and standard deviation of all tokens taken out."""

    compares: ClassVar[bool] = False
    subtract_group_mean: bool = False
    """Take out the mean of the answers to the same prompt first (the paper's REINFORCE++-baseline)."""

    @property
    def takes_steps(self) -> bool:
        return not self.subtract_group_mean  # which is a mean of whole answers

    def of_tokens(self, drawn: Drawn) -> Judged:
        if not drawn.by_step:
            return super().of_tokens(drawn)
        known = drawn.learn if drawn.present is None else drawn.learn & drawn.present.unsqueeze(1)
        return Judged(whitened(discounted(drawn.by_token(), 1.0), known))

    def of(self, rewards: Tensor, group_size: int) -> Tensor:
        groups = rewards.view(-1, group_size)
        found = (groups - groups.mean(dim=1, keepdim=True)).flatten() if self.subtract_group_mean else rewards
        return (found - found.mean()) / (found.std(unbiased=False) + EPSILON)

    def among(self, rewards: Tensor, present: Tensor, group_size: int) -> Tensor:
        if bool(present.all()):
            return self.of(rewards, group_size)
        found = rewards.where(present, 0).view(-1, group_size)
        if self.subtract_group_mean:
            counts = present.view(-1, group_size).sum(1, keepdim=True).clamp(min=1)
            found = found - found.sum(1, keepdim=True) / counts
        advantages = rewards.new_zeros(rewards.shape)
        advantages[present] = NormalizedBatch().of(found.flatten()[present], 1)
        return advantages
