"""Adafactor (Shazeer and Stern, arXiv:1804.04235): second moments of matrices as one number a row and a column.

As published (algorithms 4 and 5): no momentum, updates clipped at a root mean square of 1, steps relative to the
weight's own root mean square; only the step size, min(1e-2, 1/sqrt(t)) there, comes from the spec's schedule here.
All it needs of a whole matrix are sums, so shards exchange these: two small all-reduces a group, the same result in
every ZeRO stage. The factors are kept whole on every rank, being small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from pipelines.stages.training.optimizers.rule import FP32_BYTES, Rule, Sharded
from pipelines.stages.training.parallel.layouts import Layout, Piece, Whole
from pipelines.stages.training.spec import TrainingSpec

DECAY_EXPONENT = 0.8  # the second moment's decay is 1 - t^-0.8
SMALLEST_SQUARE = 1e-30  # epsilon 1
SMALLEST_SCALE = 1e-3  # epsilon 2: weights that begin at 0 move, too
CLIP = 1.0  # d
FACTORS = "factors"  # of the state: each matrix's means by row, then by column, one matrix after another


class Adafactor(Rule):
    """On all weights: a group is either of matrices alone (`factored`) or of vectors alone."""

    whole_matrices = True
    whole_state = (FACTORS,)

    def groups(
        self, spec: TrainingSpec, hidden: Mapping[Parameter, float], rest: list[Parameter]
    ) -> list[dict[str, Any]]:
        matrices, vectors = ([p for p in rest if (p.ndim == 2) == factored] for factored in (True, False))
        return [
            {"params": of, "weight_decay": decay, "rule": "adafactor", "peak": spec.learning_rate, "factored": factored}
            for of, decay, factored in (
                (list(hidden), spec.weight_decay, True),
                (matrices, 0.0, True),
                (vectors, 0.0, False),
            )
        ]

    def update(self, optimizer: Sharded, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            _update(parameter, optimizer.state[parameter], group, optimizer.layouts.get(parameter), optimizer.wholes)

    def state_bytes(self, parameter: Tensor) -> float:
        return FP32_BYTES * (sum(parameter.shape) if parameter.ndim == 2 else parameter.numel())


def _update(
    parameter: Tensor, state: dict[str, Any], group: dict[str, Any], layout: Layout | None, known: dict[Tensor, Whole]
) -> None:
    wholes = layout.wholes if layout else [known[parameter]]
    pieces = list(layout.pieces(parameter)) if layout else [Piece(0, slice(0, parameter.numel()), 0)]
    gradient = parameter.grad
    assert gradient is not None
    weights, gradients = parameter.view(-1), gradient.reshape(-1)
    shapes = [whole.shape for whole in wholes]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        size = sum(map(sum, shapes)) if group["factored"] else parameter.numel()
        state[FACTORS if group["factored"] else "exp_avg_sq"] = parameter.new_zeros(size)
    state["step"] += 1
    forget = float(state["step"]) ** -DECAY_EXPONENT
    if group["factored"]:
        means = torch.zeros_like(state[FACTORS])
        of = list(zip(*[iter(means.split([length for shape in shapes for length in shape]))] * 2, strict=True))
        for piece in pieces:
            squares, rows = _in_rows(gradients[piece.at].square() + SMALLEST_SQUARE, piece, shapes[piece.number])
            of[piece.number][0][rows] += squares.sum(1) / squares.size(1)
            of[piece.number][1].add_(squares.sum(0) / shapes[piece.number][0])
        state[FACTORS].lerp_(layout.all_reduce(means) if layout else means, forget)
    else:
        state["exp_avg_sq"].lerp_(gradients.square() + SMALLEST_SQUARE, forget)
    steps = torch.zeros_like(gradients)
    norms = torch.zeros((2, len(wholes)), device=parameter.device)
    for piece in pieces:
        moment = _moment(state, piece, shapes)
        steps[piece.at] = gradients[piece.at] * moment.rsqrt()
        norms[0, piece.number] = steps[piece.at].square().sum()
        norms[1, piece.number] = weights[piece.at].square().sum()
    sums = (layout.all_reduce(norms) if layout else norms).tolist()
    weights.mul_(1 - group["lr"] * group["weight_decay"])
    for piece in pieces:
        step_rms, weight_rms = (math.sqrt(row[piece.number] / wholes[piece.number].shape.numel()) for row in sums)
        size = group["lr"] * max(SMALLEST_SCALE, weight_rms) / max(1.0, step_rms / CLIP)
        weights[piece.at].add_(steps[piece.at], alpha=-size)


def _in_rows(values: Tensor, piece: Piece, shape: torch.Size) -> tuple[Tensor, slice]:
    """The elements of a piece as rows of their matrix, zeros where other shards have theirs, and which rows."""
    columns = shape[1]
    first, last = piece.begin // columns, (piece.begin + len(values) - 1) // columns
    rows = values.new_zeros((last - first + 1) * columns)
    before = piece.begin - first * columns
    rows[before : before + len(values)] = values
    return rows.view(-1, columns), slice(first, last + 1)


def _moment(state: dict[str, Any], piece: Piece, shapes: list[torch.Size]) -> Tensor:
    """The estimated second moments of the elements of a piece."""
    if FACTORS not in state:
        return state["exp_avg_sq"][piece.at]
    offset = sum(map(sum, shapes[: piece.number]))
    height, columns = shapes[piece.number]
    row_means, column_means = state[FACTORS][offset : offset + height + columns].split([height, columns])
    count = piece.at.stop - piece.at.start
    first, last = piece.begin // columns, (piece.begin + count - 1) // columns
    outer = torch.outer(row_means[first : last + 1] / row_means.mean(), column_means)
    before = piece.begin - first * columns
    return outer.view(-1)[before : before + count]


RULE = Adafactor()
