"""Dynamic loss scaling for fp16, whose smallest number is 6e-8 (Micikevicius et al., arXiv:1710.03740, section 3.2).

The loss is multiplied by `value` before the backward pass and the gradient divided after it; weights and optimizer
state stay fp32. A gradient that is not finite costs the step, and the scale is halved; after `GROWTH_INTERVAL` steps
without one it is doubled (the constants are `torch.amp.GradScaler`'s). All ranks see the same norms, hence one scale.
"""

from __future__ import annotations

from dataclasses import dataclass

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000


@dataclass
class LossScale:
    """The scale and its history: a part of every checkpoint."""

    value: float = INITIAL_SCALE
    finite_steps: int = 0  # since the scale last changed
    skipped_steps: int = 0  # of the whole run

    def update(self, finite: bool) -> bool:
        """Take note of a step's gradient. Returns whether it overflowed: was not finite, with a scale left to lower."""
        if finite:
            self.finite_steps += 1
            if self.finite_steps >= GROWTH_INTERVAL:
                self.value *= 2.0
                self.finite_steps = 0
            return False
        overflowed = self.value > 1.0
        self.value = max(1.0, self.value / 2.0)
        self.finite_steps = 0
        self.skipped_steps += 1
        return overflowed
