"""The numbers that integers of a few bits stand for, and the scale that loses least of a matrix.

A scale is stored in bfloat16, so it is rounded to that before the weights are rounded by it. At 4 bits each scale is
the one of nine, from the widest value's down, that loses least; at 8 bits the widest value's is as good.
"""

from __future__ import annotations

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams, calculate_range
from torch import Tensor

STORED = torch.bfloat16  # scales and what is not quantized: vLLM's integer kernels for CPUs compute in it
SHRINKAGES = {8: [1.0], 4: [1 - 0.05 * i for i in range(9)]}  # by bits: of the range that a scale spans
ERROR_NORM = 2.4  # between the squared error, which clips too much, and the largest; as in llm-compressor


def on_grid(weight: Tensor, scale: Tensor, zero_point: Tensor, grid: QuantizationArgs) -> Tensor:
    """A matrix (outputs, inputs), rounded to nearest; `scale` and `zero_point` (outputs, groups)."""
    groups = weight.unflatten(-1, (scale.shape[-1], -1))
    low, high = calculate_range(grid, weight.device)
    integers = (groups / scale[..., None] + zero_point[..., None]).round().clamp(low, high)
    return ((integers - zero_point[..., None]) * scale[..., None]).flatten(-2)


def best_scale(weight: Tensor, grid: QuantizationArgs, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale and zero point (outputs, groups) of each group of weights (of each row, without groups).

    Of those tried the one that loses least. `importance` (inputs) weighs squared errors, as the mean square of what
    comes in at each; without it the error counts by its power of 2.4.
    """
    groups = weight.unflatten(-1, (-1, grid.group_size or weight.shape[-1]))
    low, high = groups.amin(-1), groups.amax(-1)
    best, zeros, least = torch.empty_like(low), torch.zeros_like(low), torch.full_like(low, torch.inf)
    for shrinkage in SHRINKAGES[grid.num_bits]:
        scale, zero = calculate_qparams(low * shrinkage, high * shrinkage, grid)
        scale, zero = scale.to(STORED).to(weight.dtype), zero.to(weight.dtype)
        error = (on_grid(weight, scale, zero, grid) - weight).abs()
        lost = error.pow(ERROR_NORM) if importance is None else error.square() * importance
        lost = lost.unflatten(-1, groups.shape[-2:]).sum(-1)
        better = lost < least
        best, zeros = torch.where(better, scale, best), torch.where(better, zero, zeros)
        least = torch.minimum(lost, least)
    return best, zeros


def widest_scale(weight: Tensor, grid: QuantizationArgs) -> tuple[Tensor, Tensor]:
    """Scale and zero point (outputs, groups) that reach from the least to the largest weight of each group."""
    groups = weight.unflatten(-1, (-1, grid.group_size or weight.shape[-1]))
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), grid)
    return scale.to(STORED).to(weight.dtype), zero.to(weight.dtype)
