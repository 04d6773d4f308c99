"""AdamW, and Muon on the hidden matrices, as one optimizer that works on whole parameters and on ZeRO's flat shards.

ZeRO hands an optimizer flat pieces of many parameters. AdamW does not care; Muon needs whole matrices. So Muon keeps
its momentum sharded, gathers the momentum's update (one all-gather a group), orthogonalizes the matrices that touch
this rank's piece, and applies its piece. DeepSpeed's own Muon clips the orthogonalized update instead of the
gradient and compiles on first use: hence this one, which gives the same result in every ZeRO stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.adamw import adamw

from cluster.specs import TrainingSpec

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly (singular values within 0.7 to 1.2), in the shape of `matrix`.

    Newton-Schulz iteration of Keller Jordan's Muon (kellerjordan.github.io/posts/muon), quintic, five steps.
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


@dataclass
class Matrix:
    """A hidden matrix: its shape and the factor on its update, sqrt(max(1, outputs / inputs)) after Keller Jordan."""

    shape: torch.Size
    scale: float


@dataclass
class Layout:
    """Where the matrices of a flat group lie.

    All ranks' pieces together are `rows` rows (1: parameters one after another, cut into equal pieces, ZeRO 1 and 2;
    the number of ranks: each parameter cut into one piece a rank, ZeRO 3). Matrix i fills the columns
    `columns[i]` of them, row by row, with padding at the end.
    """

    matrices: list[Matrix]
    columns: list[tuple[int, int]]
    rows: int
    rank: int
    ranks: int

    def orthogonalized(self, piece: Tensor, dtype: torch.dtype) -> Tensor:
        """This rank's piece of the orthogonalized and scaled matrices whose elements `piece` is this rank's part of."""
        gathered = piece.new_empty(self.ranks * piece.numel())
        dist.all_gather_into_tensor(gathered, piece)
        grid = gathered.view(self.rows, -1)
        mine = range(self.rank * piece.numel(), (self.rank + 1) * piece.numel())
        for matrix, (start, stop) in zip(self.matrices, self.columns, strict=True):
            if self.rows == 1 and (stop <= mine.start or start >= mine.stop):
                continue  # another rank's work
            flat = grid[:, start:stop].reshape(-1)  # a view for one row, a copy for several
            whole = flat[: matrix.shape.numel()].view(matrix.shape)
            flat[: matrix.shape.numel()] = orthogonalize(whole, dtype).mul_(matrix.scale).reshape(-1)
            if self.rows > 1:
                grid[:, start:stop] = flat.view(self.rows, -1)
        return gathered[mine.start : mine.stop]


class Optimizer(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) and, for groups with `muon`, Muon with Nesterov momentum.

    `set_factor` scales every group's learning rate from its peak. After ZeRO has flattened the parameters,
    `layouts` must name the layout of every flat Muon tensor. Where `admit` returns False, `step` does nothing.
    """

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype) -> None:
        super().__init__(groups, {"lr": 0.0, "muon": False})
        self.dtype = dtype
        self.admit: Callable[[], bool] = lambda: True
        self.layouts: dict[Tensor, Layout] = {}
        self.matrices: dict[Tensor, Matrix] = {}
        for group in self.param_groups:
            if group["muon"]:
                for parameter, scale in zip(group["params"], group.pop("scales"), strict=True):
                    self.matrices[parameter] = Matrix(parameter.shape, scale)

    def set_factor(self, factor: float) -> None:
        for group in self.param_groups:
            group["lr"] = group["peak"] * factor

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        if not self.admit():
            return
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                for parameter in parameters:
                    self._muon(parameter, group)
            elif parameters:
                self._adamw(parameters, group)

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        gradient = parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = gradient.lerp(state["momentum"], MOMENTUM)
        if layout := self.layouts.get(parameter):
            update = layout.orthogonalized(update, self.dtype)
        else:
            update = orthogonalize(update, self.dtype).mul_(self.matrices[parameter].scale)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def build_optimizer(model: torch.nn.Module, spec: TrainingSpec) -> Optimizer:
    """The optimizer of a spec for a model whose parameters are still whole.

    Weight decay and Muon touch the hidden matrices only: not embeddings, the output layer, norms and biases.
    """
    hidden = dict(_hidden_matrices(model))
    matrices = list(hidden)
    rest = [p for p in model.parameters() if p.requires_grad and p not in hidden]
    adamw_group = {"peak": spec.learning_rate, "betas": (spec.beta1, spec.beta2), "eps": 1e-8}
    if spec.optimizer == "muon":
        first: dict[str, Any] = {"muon": True, "peak": spec.muon_learning_rate, "scales": list(hidden.values())}
    else:
        first = dict(adamw_group)
    groups = [
        {"params": matrices, "weight_decay": spec.weight_decay, **first},
        {"params": rest, "weight_decay": 0.0, **adamw_group},
    ]
    return Optimizer(groups, torch.bfloat16 if spec.precision == "bf16" else torch.float32)


def _hidden_matrices(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Parameter, float]]:
    """The weights of the linear layers between embeddings and output, each with the factor on its Muon update."""
    from transformers.pytorch_utils import Conv1D

    outer = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    outputs_of = (getattr(model, "get_output_embeddings", lambda: None)(), getattr(model, "score", None))
    outer |= {id(output.weight) for output in outputs_of if output is not None}
    for module in model.modules():
        if not isinstance(module, (torch.nn.Linear, Conv1D)) or not module.weight.requires_grad:
            continue
        if id(module.weight) not in outer:
            inputs, outputs = module.weight.shape[::-1]
            if isinstance(module, Conv1D):  # GPT-2's linear layer, stored transposed
                inputs, outputs = outputs, inputs
            yield module.weight, math.sqrt(max(1.0, outputs / inputs))
