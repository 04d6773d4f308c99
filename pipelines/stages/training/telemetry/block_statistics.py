"""What goes on inside a model while it trains, block by block: gradients, weights, updates and activations.

A line of statistics.jsonl for every step that was asked for. Each rank adds up what it holds (its piece of gradients
and weights, its own activations), and two small exchanges make the global figures of it: no gradient and no weight is
gathered, in no ZeRO stage. Looking on changes no bit of the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.stages.training.engine.engine import Engine
from pipelines.stages.training.parallel.cuts import dimension

# Of a part, what adds up over ranks: squares of gradient, weight and update; number, sum and squares of activations.
SUMS = 6


class Statistics:
    """The statistics of one run. All ranks call everything in the same order.

    A part is a block of the model, an element of an outermost `ModuleList`, or a module outside of the blocks that
    has weights of its own, such as an embedding.
    """

    def __init__(self, engine: Engine, every: int) -> None:
        """`every`: steps between two lines; 0 never looks."""
        self.every = every
        self._engine = engine
        self._parts = parts(engine.objective.model) if every else {}
        self._number = {name: number for number, name in enumerate(self._parts)}
        self._hooks: list[Any] = []
        self._before: dict[Tensor, Tensor] = {}
        self._sums, self._max = torch.empty(0), torch.empty(0)

    def due(self, step: int) -> bool:
        """Whether step number `step` (the first is 1) is to be looked at."""
        return bool(self.every) and step % self.every == 0

    def begin(self) -> None:
        """Watch the activations of the step that begins."""
        self._sums = torch.zeros(len(self._parts), SUMS, dtype=torch.float64)
        self._max = torch.zeros(len(self._parts), dtype=torch.float64)
        for name, (module, _) in self._parts.items():
            self._hooks.append(module.register_forward_hook(self._watch(self._number[name])))

    def _watch(self, number: int) -> Any:
        def look(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if isinstance(hidden, Tensor) and hidden.is_floating_point() and hidden.numel():
                values = hidden.detach()
                self._sums[number, 3] += values.numel()
                self._sums[number, 4] += float(values.sum(dtype=torch.float64))
                self._sums[number, 5] += _square(values)
                self._max[number] = max(float(self._max[number]), float(torch.linalg.vector_norm(values, math.inf)))

        return look

    def gradients(self) -> None:
        """Take the gradients, which are whole and not clipped, and remember the weights before the update."""
        self._release()
        for number, parameter in self._parameters():
            if (gradient := self._gradient(parameter)) is not None:
                self._sums[number, 0] += self._square(parameter, gradient) / self._engine.gradient_scale**2
            self._before[parameter] = self._weights(parameter).clone()

    def end(self, step: int) -> dict[str, Any]:
        """The line of a step that the optimizer has taken, or left out."""
        for number, parameter in self._parameters():
            before, after = self._before.pop(parameter), self._weights(parameter)
            self._sums[number, 1] += self._square(parameter, after)
            self._sums[number, 2] += self._square(parameter, after - before)
        dist.all_reduce(self._sums)
        dist.all_reduce(self._max, dist.ReduceOp.MAX)
        rows = zip(self._parts, self._sums.tolist(), self._max.tolist(), strict=True)
        return {"step": step, "blocks": {name: _figures(sums, biggest) for name, sums, biggest in rows}}

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _parameters(self) -> Iterator[tuple[int, Tensor]]:
        for name, (_, parameters) in self._parts.items():
            for parameter in parameters:
                if parameter.requires_grad:
                    yield self._number[name], parameter

    def _weights(self, parameter: Any) -> Tensor:
        """This rank's piece of a weight; those of all ranks make the whole, with zeros at the end."""
        if self._engine.stage == 3:
            return parameter.ds_tensor.detach().flatten()
        return self._piece(parameter.detach())

    def _gradient(self, parameter: Any) -> Tensor | None:
        """This rank's piece of the gradient that the optimizer will get, before it is clipped."""
        if self._engine.stage == 0:
            return None if parameter.grad is None else self._piece(parameter.grad)
        if self._engine.stage == 3:
            return deepspeed.utils.safe_get_local_grad(parameter)
        mapping = parameter._hp_mapping  # as deepspeed.utils.safe_get_full_grad, less its gathering
        return mapping.get_lp_grad_fragment(parameter._index_in_param_group) if mapping else None

    def _piece(self, tensor: Tensor) -> Tensor:
        """This rank's share of a tensor that each of those with the same part of the layers has."""
        plan = self._engine.plan
        return tensor.flatten().tensor_split(plan.zero_size)[dist.get_rank() // plan.tensor_parallel_size]

    def _square(self, parameter: Tensor, piece: Tensor) -> float:
        """The part that a rank adds to the sum of squares: the ranks that share layers have some weights whole."""
        return _square(piece) / (self._engine.plan.tensor_parallel_size if dimension(parameter) is None else 1)


def parts(model: torch.nn.Module) -> dict[str, tuple[torch.nn.Module, list[Tensor]]]:
    """The parts of a model by name, in the model's order, each a module and its weights; tied ones count once."""
    lists = [f"{name}." for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    outermost = [name for name in lists if not any(name.startswith(o) and name != o for o in lists)]
    found: dict[str, tuple[torch.nn.Module, list[Tensor]]] = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        if around := next((o for o in outermost if name.startswith(o)), ""):
            owner = around + name.removeprefix(around).partition(".")[0]
        found.setdefault(owner, (model.get_submodule(owner), []))[1].append(parameter)
    return found


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2 if tensor.numel() else 0.0


def _figures(sums: list[float], biggest: float) -> dict[str, float | None]:
    """The figures of a part from the global sums; null where something is not finite or was not seen."""
    gradient, weight, update, count, total, squares = sums
    mean = total / count if count else math.nan
    found = {
        "grad_norm": math.sqrt(gradient) if gradient >= 0 else math.nan,
        "weight_norm": math.sqrt(weight),
        "update_ratio": math.sqrt(update / weight) if weight else math.nan,  # norm of the update over that of weights
        "activation_mean": mean,
        "activation_std": math.sqrt(max(0.0, squares / count - mean * mean)) if count else math.nan,
        "activation_max_abs": biggest if count else math.nan,
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}
