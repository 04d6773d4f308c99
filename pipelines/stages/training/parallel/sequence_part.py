"""The part of every sequence that a rank has, where neighbouring workers share sequences (ulysses.py)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class SequencePart:
    """Which of `size` contiguous pieces, alike in length, of every sequence a rank has."""

    number: int = 0
    size: int = 1

    def of(self, whole: Tensor, fill: int = 0) -> Tensor:
        """The rank's positions of a tensor (batch, length), lengthened."""
        return self.lengthened(whole, fill).chunk(self.size, dim=1)[self.number]

    def lengthened(self, whole: Tensor, fill: int = 0) -> Tensor:
        """A tensor (batch, length), lengthened by `fill` to a multiple of `size`."""
        missing = -whole.size(1) % self.size
        return F.pad(whole, (0, missing), value=fill) if missing else whole
