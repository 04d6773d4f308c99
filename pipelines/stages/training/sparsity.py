"""Training a pruned model without growing back what was pruned.

A weight whose gradient is zero from the start stays as it is under AdamW: its moments are zero, and decay shrinks zero
to zero. So it is enough to take the gradients of zeros out, whatever ZeRO cuts.
"""

from __future__ import annotations

from typing import Any


def keep_zeros(model: Any) -> int:
    """Have the zeros of a model's matrices stay zeros; how many there are."""
    number = 0
    for weight in model.parameters():
        kept = weight.detach() != 0
        if weight.ndim == 2 and weight.requires_grad and not kept.all():
            number += int((~kept).sum())
            weight.register_hook(lambda gradient, kept=kept: gradient * kept)
    return number
