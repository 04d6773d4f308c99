"""An answer against the mean of the others of its prompt (RLOO: Ahmadian et al. 2024, arXiv:2402.14740)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.stages.alignment.advantages.advantage import Advantage

if TYPE_CHECKING:
    from torch import Tensor


class LeaveOneOut(Advantage, frozen=True):
    """The reward minus the mean of the others' in its group: a baseline that the answer itself has no part in."""

    def of(self, rewards: Tensor, group_size: int) -> Tensor:
        groups = rewards.view(-1, group_size)
        others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
        return (groups - others).flatten()
