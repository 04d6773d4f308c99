"""An answer against the mean of its prompt's (GRPO: Shao et al. 2024, arXiv:2402.03300, equation of section 4.1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.stages.alignment.advantages.advantage import EPSILON, Advantage

if TYPE_CHECKING:
    from torch import Tensor


class Group(Advantage, frozen=True):
    """The reward minus the mean of its group, over the group's standard deviation. A group of equals has none."""

    scale: bool = True
    """Divide by the standard deviation; without it (Dr. GRPO: Liu et al. 2025, arXiv:2503.20783) prompts whose answers
    are nearly alike weigh less."""

    def of(self, rewards: Tensor, group_size: int) -> Tensor:
        groups = rewards.view(-1, group_size)
        found = groups - groups.mean(dim=1, keepdim=True)
        if self.scale:
            found = found / (groups.std(dim=1, unbiased=False, keepdim=True) + EPSILON)
        return found.flatten()
