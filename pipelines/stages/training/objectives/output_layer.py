"""The output layer of a language model, asked for some tokens alone: with a large vocabulary the costliest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

NAME = "_asked_by"  # attribute of the layer: whoever asks, one for all that use the model


class OutputLayer:
    """Within `asked`, the model's `logits` are (asked, vocabulary) instead of (batch, length, vocabulary)."""

    @classmethod
    def of(cls, model: Any) -> OutputLayer:
        layer = model.get_output_embeddings()
        if not hasattr(layer, NAME):
            setattr(layer, NAME, found := cls())
            layer.register_forward_pre_hook(found._pick)
        found = getattr(layer, NAME)
        assert isinstance(found, cls)
        return found

    def __init__(self) -> None:
        self._length = 0
        self._asked: Tensor | None = None

    @contextmanager
    def asked(self, which: Tensor) -> Iterator[None]:
        """Which tokens of the next batch, (batch, length) bool, are asked for, in the order of their rows."""
        with self.asked_at(which.flatten().nonzero().flatten(), which.size(1)):
            yield

    @contextmanager
    def asked_at(self, places: Tensor, length: int) -> Iterator[None]:
        """The places (asked,) in rows of a length, one behind the other, that are told from, each as often as it is
        named."""
        self._length, self._asked = length, places
        try:
            yield
        finally:
            self._asked = None

    def _pick(self, layer: Any, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """Of hidden states (batch, length, size) those that asked tokens are told from, (asked, size)."""
        if self._asked is None:
            return None
        hidden = inputs[0][:, -self._length :]  # behind the virtual tokens of a soft prompt
        return (hidden.flatten(0, 1).index_select(0, self._asked),)
