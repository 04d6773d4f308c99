"""Which part of a weight a rank has where workers share layers (tensor_parallel.py), as DeepSpeed's AutoTP cut it.

DeepSpeed notes on each weight how it was cut, which its universal checkpoints read; so do we.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from deepspeed.checkpoint.constants import DS_AUTOTP_UC_META
from deepspeed.utils import groups
from torch import Tensor


class Block(NamedTuple):
    """A rank's part of a weight, as a matrix of the first dimension by all others: where it begins, and its width.

    `saved`: by this rank; of a weight that all of a group have whole, the first of them saves it.
    """

    row: int
    column: int
    width: int
    saved: bool = True


def dimension(parameter: Tensor) -> int | None:
    """The dimension that a weight is cut in; None where the rank has the whole."""
    found: int | None = getattr(parameter, DS_AUTOTP_UC_META, {}).get("partition_dim")
    return found


def block(parameter: Any, member: int) -> Block:
    """What member number `member` of a group has of a weight, ZeRO aside."""
    rows, *others = getattr(parameter, "ds_shape", parameter.shape)
    width, cut = math.prod(others), dimension(parameter)
    if cut is None:
        return Block(0, 0, width, saved=member == 0)
    return Block(member * rows, 0, width) if cut == 0 else Block(0, member * width, width)


def whole(parameter: Tensor) -> Tensor:
    """A weight put together from the group's parts. All ranks must call it."""
    cut, part = dimension(parameter), parameter.detach()
    if cut is None:
        return part
    group = groups.get_tensor_model_parallel_group()
    parts = [torch.empty_like(part) for _ in range(group.size())]
    dist.all_gather(parts, part.contiguous(), group)
    return torch.cat(parts, cut)


def gradient_norm(parameters: list[Tensor]) -> Tensor:
    """The norm of the gradients of all weights, each element once. All ranks must call it."""
    gradients = [(p.grad, dimension(p) is None) for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([gradient for gradient, is_whole in gradients if is_whole])
    if cut := [gradient for gradient, is_whole in gradients if not is_whole]:
        square = torch.nn.utils.get_total_norm(cut).square()
        dist.all_reduce(square, group=groups.get_tensor_model_parallel_group())
        norm = (norm.square() + square).sqrt()
    return norm
