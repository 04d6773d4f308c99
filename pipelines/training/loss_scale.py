"""Dynamic loss scaling for fp16, whose smallest number is 6e-8 (Micikevicius et al., arXiv:1710.03740, section 3.2).

The loss is multiplied by `value` before the backward pass and the gradient divided after it; weights and optimizer
state stay fp32. A gradient that is not finite costs the step, and the scale is halved; after `GROWTH_INTERVAL` steps
without one it is doubled (the constants are `torch.amp.GradScaler`'s). All ranks see the same norms, hence one scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000


class LossScale(torch.nn.Module):
    """The scale and its history, as buffers: a part of the trained module, so that every checkpoint has them."""

    value: Tensor
    finite_steps: Tensor  # since the scale last changed
    skipped_steps: Tensor  # of the whole run

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(INITIAL_SCALE))
        self.register_buffer("finite_steps", torch.tensor(0))
        self.register_buffer("skipped_steps", torch.tensor(0))

    def update(self, finite: bool) -> bool:
        """Take note of a step's gradient. Returns whether it overflowed: was not finite, with a scale left to lower."""
        if finite:
            self.finite_steps += 1
            if self.finite_steps >= GROWTH_INTERVAL:
                self.value *= 2.0
                self.finite_steps.zero_()
            return False
        overflowed = bool(self.value > 1.0)
        self.value.copy_(torch.clamp(self.value / 2.0, min=1.0))
        self.finite_steps.zero_()
        self.skipped_steps += 1
        return overflowed
