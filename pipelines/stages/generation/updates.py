"""What an engine asks of whoever makes its weights of something smaller that travels instead of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


class Merger(Protocol):
    """What makes an engine's weights of updates."""

    def stored(self) -> Iterator[Tensor]:
        """What the weights that change were before."""

    def merged(self, updates: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The weights that change, by their Hugging Face names."""
