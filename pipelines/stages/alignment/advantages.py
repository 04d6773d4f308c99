"""How much better a completion is than the others of its prompt (GRPO: Shao et al. 2024, arXiv:2402.03300)."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-4


def group_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """Advantages (n,) of rewards (n,), whose groups stand one after another. A group of equals has none."""
    groups = rewards.view(-1, group_size)
    spread = groups.std(dim=1, unbiased=False, keepdim=True)
    return ((groups - groups.mean(dim=1, keepdim=True)) / (spread + EPSILON)).flatten()
