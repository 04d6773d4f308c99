"""Sizes of the global batches of a run: constant, or growing at its beginning (GPT-3, arXiv:2005.14165, appendix B).

Small batches make more of the same tokens early, while the gradient's noise is small beside it. The growth is linear
in steps, in multiples of the first batch, so that what divides the first batch divides all. How many sequences came
before a step is a sum in closed form: the order needs no state.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from pipelines.specs import TrainingSpec


@dataclass(frozen=True)
class BatchSizes:
    """Batches of `start` sequences at first, of `final` (a multiple) from step `warmup_steps` on."""

    start: int
    final: int
    warmup_steps: int

    @classmethod
    def of(cls, spec: TrainingSpec) -> BatchSizes:
        return cls(
            spec.start_batch_size or spec.global_batch_size, spec.global_batch_size, spec.batch_size_warmup_steps
        )

    def size(self, step: int) -> int:
        """Sequences of a step."""
        if step >= self.warmup_steps:
            return self.final
        return self.start * (1 + step * (self.final // self.start - 1) // self.warmup_steps)

    def before(self, step: int) -> int:
        """Sequences of all steps before this one."""
        growing, increments = min(step, self.warmup_steps), self.final // self.start - 1
        # The i-th increment is there from the first step on that has step * increments >= i * warmup_steps.
        begins = (-(-i * self.warmup_steps // increments) for i in range(1, increments + 1))
        multiples = growing + sum(max(0, growing - begin) for begin in begins)
        return self.start * multiples + self.final * (step - growing)

    def steps(self, sequences: int) -> int:
        """The most steps that make do with so many sequences."""
        grown = self.before(self.warmup_steps)
        if sequences >= grown:
            return self.warmup_steps + (sequences - grown) // self.final
        return bisect.bisect_right(range(self.warmup_steps + 1), sequences, key=self.before) - 1

    def steps_to_see(self, sequences: int) -> int:
        """The fewest steps that take in so many sequences."""
        steps = self.steps(sequences)
        return steps + (self.before(steps) < sequences)
