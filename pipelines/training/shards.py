"""Which elements of which parameter this rank holds the master copy of, whatever ZeRO did with them.

Without ZeRO every rank holds all. ZeRO 1 and 2 lay a group's parameters one after another and cut the whole into equal
pieces, one a rank; ZeRO 3 cuts every parameter into one piece a rank. A training state told in these terms, and not in
DeepSpeed's, can be taken up by any number of ranks at any stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.training.optimizers import Optimizer

WEIGHT = "weight"


@dataclass(frozen=True)
class Piece:
    """`length` elements of a parameter from `start`, which stand in `flat` from `offset`; of the optimizer's `group`.

    `flat` is what the optimizer knows its state by.
    """

    parameter: str
    start: int
    length: int
    flat: Tensor
    offset: int
    group: int

    def cut(self, begin: int, end: int) -> Piece | None:
        """What of it lies in [begin, end) of its own elements."""
        begin, end = max(begin, 0), min(end, self.length)
        if begin >= end:
            return None
        return Piece(self.parameter, self.start + begin, end - begin, self.flat, self.offset + begin, self.group)

    def of(self, tensor: Tensor) -> Tensor:
        """The piece's elements of a tensor that is laid out as `flat`, as a view."""
        return tensor.detach().view(-1)[self.offset : self.offset + self.length]


def pieces(engine: Any, optimizer: Optimizer) -> list[Piece]:
    """Everything this rank holds, for an engine of DeepSpeed's at any stage."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    zero = engine.optimizer
    if zero is optimizer:
        groups = enumerate(optimizer.param_groups)
        return [Piece(names[p], 0, p.numel(), p, 0, group) for group, held in groups for p in held["params"]]
    rank = torch.distributed.get_rank()
    found = []
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        flats = zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
        for number, (flat, parameters) in enumerate(flats):
            group, offset = zero.sub_group_to_group_id[number], 0
            for parameter in parameters:
                share = parameter.partition_numel()
                start = rank * share
                held = min(share, parameter.ds_numel - start)  # the last shares are padded, or all padding
                if held > 0:
                    found.append(Piece(names[parameter], start, held, flat, offset, group))
                offset += share
        return found
    flats = zip(zero.single_partition_of_fp32_groups, zero.round_robin_bit16_groups, strict=True)
    for group, (flat, parameters) in enumerate(flats):
        offset = -rank * flat.numel()  # where a parameter begins in this rank's part of the group
        for parameter in parameters:
            whole = Piece(names[parameter], 0, parameter.numel(), flat, offset, group)
            if piece := whole.cut(-offset, flat.numel() - offset):
                found.append(piece)
            offset += parameter.numel()
    return found


def to_save(engine: Any, optimizer: Optimizer) -> list[Piece]:
    """This rank's part of the whole state: all ranks' parts together hold every element once."""
    held = pieces(engine, optimizer)
    if engine.optimizer is not optimizer:
        return held
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    total = sum(piece.length for piece in held)
    begin, end = total * rank // ranks, total * (rank + 1) // ranks
    found, before = [], 0
    for piece in held:
        if part := piece.cut(begin - before, end - before):
            found.append(part)
        before += piece.length
    return found


def tensors(piece: Piece, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The weights of a piece and its state in the optimizer, by name, as views."""
    yield WEIGHT, piece.of(piece.flat)
    for name, value in optimizer.state[piece.flat].items():
        if value.dim():
            yield name, piece.of(value)


def scalars(piece: Piece, optimizer: Optimizer) -> dict[str, float]:
    """What the optimizer keeps of a piece's group as one number, such as its steps."""
    return {name: value.item() for name, value in optimizer.state[piece.flat].items() if not value.dim()}


def spread(engine: Any, optimizer: Optimizer) -> None:
    """Bring master weights changed from outside to wherever the model reads its weights. All ranks call it."""
    zero = engine.optimizer
    if zero is optimizer:
        return
    if not hasattr(zero, "fp32_partitioned_groups_flat"):
        zero.update_lp_params()
        return
    for number in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(number)
    if zero.persistent_parameters:
        zero.persistent_parameters[0].partition(zero.persistent_parameters)
        zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
