"""Recipes of pretraining in which something goes wrong: a bad batch, one that is missing, and a slow rank."""

from __future__ import annotations

from typing import Any

import torch

from pipelines.training.batches import Share, TokenBatches
from pipelines.training.worker import Parts, Work, pretrain

BAD = 5  # the step, counted from 0, of the bad batch


class Troubled(TokenBatches):
    """The batches of another source, changed by `change(step, share)`; `later(step)` is the step that is read."""

    def __init__(self, source: Any, change: Any = lambda step, share: share, later: Any = lambda step: step) -> None:
        vars(self).update(vars(source))
        self.change, self.later = change, later

    def share(self, step: int, engine: Any = None) -> Share:
        return self.change(step, super().share(self.later(step), engine))


def _with(work: Work, rank: int, **how: Any) -> Parts:
    parts = pretrain(work, rank)
    parts.source = Troubled(parts.source, **how)
    return parts


def _divided(by: float) -> Any:
    """The loss of the bad batch divided by another number than the others': infinite, or very large."""

    def change(step: int, share: Share) -> Share:
        return Share(share.micro_batches, share.divisor * by, share.tokens) if step == BAD else share

    return change


def infinite(work: Work, rank: int) -> Parts:
    return _with(work, rank, change=_divided(0.0) if rank == 1 else lambda step, share: share)


def spike(work: Work, rank: int) -> Parts:
    return _with(work, rank, change=_divided(0.01))


def omitted(work: Work, rank: int) -> Parts:
    """The bad batch is not there: the next ones come a step earlier."""
    return _with(work, rank, later=lambda step: step + (step >= BAD))


def slow(work: Work, rank: int) -> Parts:
    """Rank 1 multiplies matrices before it gives its batch."""

    def change(step: int, share: Share) -> Share:
        if rank == 1:
            matrix = torch.ones(512, 512)
            for _ in range(40):
                matrix = (matrix @ matrix).clamp(max=1.0)
        return share

    return _with(work, rank, change=change)
