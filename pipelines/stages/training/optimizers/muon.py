"""Muon (Keller Jordan, kellerjordan.github.io/posts/muon) with Nesterov momentum, on whole matrices and on shards.

Muon needs whole matrices. So it keeps its momentum sharded, gathers the momentum's update (one all-gather a group),
orthogonalizes the matrices that touch this rank's shard, and applies its piece. DeepSpeed's own Muon clips the
orthogonalized update instead of the gradient and compiles on first use: hence this one, which gives the same result
in every ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from pipelines.stages.training.optimizers import adamw
from pipelines.stages.training.optimizers.rule import FP32_BYTES, Rule, Sharded
from pipelines.stages.training.parallel.layouts import Layout
from pipelines.stages.training.spec import TrainingSpec

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly (singular values within 0.7 to 1.2), in the shape of `matrix`.

    Newton-Schulz iteration of Keller Jordan's Muon, quintic, five steps.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.size(0) > matrix.size(1)
    x = (matrix.mT if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype)


def orthogonalized(layout: Layout, shard: Tensor, dtype: torch.dtype) -> Tensor:
    """This rank's shard of the orthogonalized and scaled matrices that `shard` is this rank's part of."""
    grid, mine = layout.gather(shard), layout.mine(shard)
    for whole, (start, stop) in zip(layout.wholes, layout.columns, strict=True):
        if layout.rows == 1 and (stop <= mine.start or start >= mine.stop):
            continue  # another rank's work
        flat = grid[:, start:stop].reshape(-1)  # a view for one row, a copy for several
        matrix = flat[: whole.shape.numel()].view(whole.shape)
        flat[: whole.shape.numel()] = orthogonalize(matrix, dtype).mul_(whole.scale).reshape(-1)
        if layout.rows > 1:
            grid[:, start:stop] = flat.view(layout.rows, -1)
    return grid.view(-1)[mine.start : mine.stop].to(shard.device)


class Muon(Rule):
    """For the hidden matrices, being made for linear maps; AdamW moves the rest."""

    whole_matrices = True
    gathers = True

    def groups(
        self, spec: TrainingSpec, hidden: Mapping[Parameter, float], rest: list[Parameter]
    ) -> list[dict[str, Any]]:
        options = {"rule": "muon", "peak": spec.muon_learning_rate, "scales": list(hidden.values())}
        return [{"params": list(hidden), "weight_decay": spec.weight_decay, **options}, adamw.plain(spec, rest)]

    def update(self, optimizer: Sharded, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = optimizer.state[parameter]
            gradient = parameter.grad
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(gradient, 1 - MOMENTUM)
            step = gradient.lerp(state["momentum"], MOMENTUM)
            if layout := optimizer.layouts.get(parameter):
                step = orthogonalized(layout, step, optimizer.dtype)
            else:
                step = orthogonalize(step, optimizer.dtype).mul_(optimizer.wholes[parameter].scale)
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-group["lr"])

    def state_bytes(self, parameter: Tensor) -> float:
        return FP32_BYTES * parameter.numel()


RULE = Muon()
