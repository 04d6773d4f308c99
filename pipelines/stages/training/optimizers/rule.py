"""What an optimizer is made of: a rule, which says how weights of a group move and which groups there are.

A spec's `optimizer` is the name of a module here, whose `RULE` is its rule; all that the rest of the project needs to
know of it (of its state, of what it works on) is said by the rule itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from pipelines.stages.training.parallel.layouts import Layout, Whole
from pipelines.stages.training.spec import TrainingSpec

FP32_BYTES = 4


class Sharded(torch.optim.Optimizer):
    """An optimizer whose flat tensors may be shards of several weights.

    `layouts` says, of a flat tensor, which pieces of which weights it holds; `wholes`, of a weight that is whole, its
    shape and the factor on its update; `dtype` is that of large products.
    """

    dtype: torch.dtype
    layouts: dict[Tensor, Layout]
    wholes: dict[Tensor, Whole]


class Rule:
    """How weights move. Groups are those of `torch.optim`, with the `rule` that moves them and its peak learning rate,
    `peak`; what else `update` asks for is up to the rule."""

    whole_matrices: ClassVar[bool] = False
    """Whether it needs to know which element of which weight it has: then it cannot work on layers that are cut."""
    gathers: ClassVar[bool] = False
    """Whether it puts whole matrices together from shards, which takes memory."""
    whole_state: ClassVar[tuple[str, ...]] = ()
    """Names in its state of what belongs to a weight as a whole, and is whole on every rank: a number each row and
    column."""

    def groups(
        self, spec: TrainingSpec, hidden: Mapping[Parameter, float], rest: list[Parameter]
    ) -> list[dict[str, Any]]:
        """The groups of a model's trained weights; groups without any are left out by the caller.

        `hidden`: the matrices between embeddings and output, each with the square root of its outputs over its inputs
        (at least 1), which Muon scales updates by. `rest`: embeddings, output, norms and biases.
        """
        raise NotImplementedError

    def update(self, optimizer: Sharded, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """One step of a group, on all of its weights that have a gradient; state is in `optimizer.state`."""
        raise NotImplementedError

    def state_bytes(self, parameter: Tensor) -> float:
        """Bytes of the state that it keeps for a whole weight."""
        raise NotImplementedError

    def by_element(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of a flat tensor as tensors like it, which can be cut elsewhere."""
        return state

    def from_elements(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The reverse of `by_element`."""
        return state
