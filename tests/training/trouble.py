"""Recipes of pretraining in which something goes wrong: a bad batch, one that is missing, and a slow rank.

All tell which steps were taken and which were left out, in `ended-RANK.jsonl`.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from cluster.core.storage.location import Location
from pipelines.stages.training.batches import Share
from pipelines.stages.training.sources import TokenBatches
from pipelines.stages.training.worker import Parts, Work, pretrain

BAD = 5  # the step, counted from 0, of the bad batch


class Troubled(TokenBatches):
    """The batches of another source, changed by `change(step, share)`; `later(step)` is the step that is read."""

    def __init__(
        self,
        source: Any,
        output: Location,
        change: Any = lambda step, share: share,
        later: Any = lambda step: step,
        look: Any = lambda step, engine: None,
    ) -> None:
        vars(self).update(vars(source))
        self.output, self.change, self.later, self.look = output, change, later, look
        self.ended: list[Any] = []

    def share(self, step: int, engine: Any = None) -> Share:
        self.look(step, engine)
        return self.change(step, super().share(self.later(step), engine))

    def taken(self, step: int) -> None:
        self._end(step, "")

    def skipped(self, step: int, reason: str) -> None:
        self._end(step, reason)

    def _end(self, step: int, reason: str) -> None:
        self.ended.append([step, reason])
        lines = "".join(json.dumps(entry) + "\n" for entry in self.ended)
        self.output.write_bytes(f"ended-{self.rank}.jsonl", lines.encode())


def _with(work: Work, rank: int, **how: Any) -> Parts:
    parts = pretrain(work, rank)
    parts.source = Troubled(parts.source, work.output, **how)
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


def told(work: Work, rank: int) -> Parts:
    """Nothing goes wrong by itself."""
    return _with(work, rank)


def exported(work: Work, rank: int) -> Parts:
    """Before the bad step the weights are gathered for rank 0 alone; what each rank copied is in `copied-RANK.json`."""

    def look(step: int, engine: Any) -> None:
        if step != BAD:
            return
        copied: list[int] = []
        clone = torch.Tensor.clone
        torch.Tensor.clone = lambda self: (copied.append(self.numel()), clone(self))[1]  # type: ignore[method-assign]
        try:
            found = engine.weights(keep=rank == 0)
        finally:
            torch.Tensor.clone = clone  # type: ignore[method-assign]
        held = sum(weight.numel() for weight in found.values())
        work.output.write_bytes(f"copied-{rank}.json", json.dumps({"copied": sum(copied), "held": held}).encode())

    return _with(work, rank, look=look)
