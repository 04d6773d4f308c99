"""What comes into the linear layers of a model for given texts, one transformer block after the other.

A block is given what the blocks before it made in their new form, so that it may make up for their errors. One block's
figures are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.stages.tuning.methods.method import blocks


@dataclass
class Statistics:
    """Of the inputs x of a layer, over all places of all texts: the mean of x x^T (inputs, inputs), which is half of
    the Hessian of its squared error; the mean and the largest |x| (inputs)."""

    gram: Tensor
    magnitude: Tensor
    largest: Tensor

    @property
    def outliers(self) -> float:
        """The largest |x| over the root mean square of all; 0 where all are 0."""
        square = float(self.gram.diagonal().mean())
        return float(self.largest.max()) / square**0.5 if square else 0.0

    def divided(self, scales: Tensor) -> Statistics:
        """Of x / scales."""
        return Statistics(self.gram / scales.outer(scales), self.magnitude / scales, self.largest / scales)


@dataclass(frozen=True)
class Block:
    """A block of a model, its linear layers by their names in the model, and what came into each."""

    module: nn.Module
    prefix: str
    layers: dict[str, nn.Linear]
    statistics: dict[str, Statistics]


class Counting:
    """Sums up what comes into layers. Layers that are given one and the same tensor share their figures."""

    def __init__(self, layers: dict[str, nn.Linear]) -> None:
        self.leaders: dict[str, str] = {}
        self.sums: dict[str, Statistics] = {}
        self.places = 0
        self._last: tuple[str, Tensor] | None = None
        self._hooks = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in layers.items()]

    def _hook(self, name: str) -> Any:
        def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if self._last and self._last[1] is inputs[0]:
                self.leaders[name] = self._last[0]
                return
            self._last = (name, inputs[0])
            with torch.autocast(inputs[0].device.type, enabled=False):
                x = inputs[0].detach().flatten(0, -2).float()
                size = x.abs()
                found = Statistics(x.T @ x, size.sum(0), size.amax(0))
            if before := self.sums.get(name):
                before.gram += found.gram
                before.magnitude += found.magnitude
                before.largest = torch.maximum(before.largest, found.largest)
            else:
                self.sums[name] = found

        return count

    def finish(self, places: int) -> dict[str, Statistics]:
        """The figures of each layer, over so many places, and no more counting."""
        for hook in self._hooks:
            hook.remove()
        means = {name: Statistics(s.gram / places, s.magnitude / places, s.largest) for name, s in self.sums.items()}
        return means | {name: means[leader] for name, leader in self.leaders.items()}


class _Reached(Exception):
    """The first block is reached: no need to go on."""


@torch.no_grad()
def walk(
    model: nn.Module, layers: dict[str, nn.Linear], sequences: Sequence[Tensor], half: bool = True
) -> Iterator[Block]:
    """The blocks of a model in their order, each with what comes into its layers for `sequences` of token ids, all of
    one length. Whoever is given one may change its weights: the next is given what it makes then.

    `half`: computed in bfloat16, as the result is served, in half the time; what is summed up is in float32.
    """
    stack = blocks(model)
    names = {module: name for name, module in model.named_modules()}
    states, others, options = _entering(model, stack[0], sequences)
    places = sum(state.shape[:-1].numel() for state in states)
    computed = torch.autocast(states[0].device.type, torch.bfloat16, enabled=half)
    for module in stack:
        prefix = names[module] + "."
        own = {name: layer for name, layer in layers.items() if name.startswith(prefix)}
        counting = Counting(own)
        with computed:
            for state in states:
                module(state, *others, **options)
        yield Block(module, prefix, own, counting.finish(places))
        with computed:
            states = [_first(module(state, *others, **options)) for state in states]


def _entering(model: nn.Module, first: nn.Module, sequences: Sequence[Tensor]) -> tuple[list[Tensor], Any, Any]:
    """The hidden states (1, places, width) that enter the first block, and what else it is given."""
    states: list[Tensor] = []
    given: list[Any] = []

    def reached(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        states.append(arguments[0])
        given[:] = [arguments[1:], options]
        raise _Reached

    hook = first.register_forward_pre_hook(reached, with_kwargs=True)
    try:
        for sequence in sequences:
            try:
                model(sequence[None], use_cache=False)
            except _Reached:
                pass
    finally:
        hook.remove()
    return states, *given


def _first(output: Any) -> Tensor:
    """The hidden states, which some families give back in a tuple."""
    return output[0] if isinstance(output, tuple) else output
