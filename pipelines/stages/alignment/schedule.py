"""When rollouts are drawn that are learned from later: as early as the bound on their age allows, and no earlier.

Weights have a version, the number of the steps that made them. A token of rollout n may be drawn by weights of
`max_staleness` rollouts before it at the earliest: of version (n - max_staleness) * steps_per_rollout. Since versions
only rise while a completion is drawn, it is enough to look at the weights that a rollout is begun with.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.core.errors import JobError


class Schedule:
    """What may be begun and what is to be taken, of a run of `rollouts` that begins or goes on at number `first`. Every
    rank has one and asks it the same."""

    def __init__(self, rollouts: int, steps_per_rollout: int, max_staleness: int, first: int = 0) -> None:
        self.rollouts, self.steps_per_rollout, self.max_staleness = rollouts, steps_per_rollout, max_staleness
        self.pending = range(first, first)  # begun, and not taken yet

    def due(self, version: int) -> range:
        """The rollouts to begin now that the engines hold weights of a version; they are pending from here on."""
        newest = version // self.steps_per_rollout + self.max_staleness
        begun = range(self.pending.stop, max(self.pending.stop, min(self.rollouts, newest + 1)))
        self.pending = range(self.pending.start, begun.stop)
        return begun

    def take(self, number: int, versions: Iterable[int]) -> int:
        """The rollout to be learned from next, and the versions of its tokens. Returns the age of the oldest in steps,
        when the first step learns from it.

        Raises JobError for one that is not next, and for tokens that are older than the bound, or not born yet.
        """
        if number not in self.pending or number != self.pending.start:
            raise JobError(f"rollout {number} is to be learned from, and those that were begun are {self.pending}")
        step, bound = number * self.steps_per_rollout, self.max_staleness * self.steps_per_rollout
        ages = [step - version for version in versions]
        if ages and not 0 <= min(ages) <= max(ages) <= bound:
            raise JobError(
                f"rollout {number} has tokens of weights that are {min(ages)} to {max(ages)} steps old, and "
                f"rlhf.max_staleness allows {bound}"
            )
        self.pending = range(number + 1, self.pending.stop)
        return max(ages, default=0)
