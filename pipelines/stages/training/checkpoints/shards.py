"""Which elements of which weight this rank holds the master copy of, whatever ZeRO did with them.

Without ZeRO every rank holds all. ZeRO 1 and 2 lay a group's weights one after another and cut the whole into equal
shards, one a rank; ZeRO 3 cuts every weight into one piece a rank. A training state told in these terms, and not in
DeepSpeed's, can be taken up by any number of ranks at any stage, whether they share layers or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.stages.training.checkpoints.snapshots import State
from pipelines.stages.training.optimizers.optimizers import FlatState, Optimizer
from pipelines.stages.training.parallel.cuts import Block, block

WEIGHT = "weight"


class Rectangle(NamedTuple):
    """Rows of a weight's matrix, or a part of one, from `row` and `column`, which stand in a shard from `offset`."""

    row: int
    column: int
    height: int
    width: int
    offset: int

    def of(self, tensor: Tensor) -> Tensor:
        """Its elements of a tensor that is laid out as the shard, as a view (height, width)."""
        flat = tensor.detach().view(-1)[self.offset : self.offset + self.height * self.width]
        return flat.view(self.height, self.width)


@dataclass(frozen=True)
class Piece:
    """`length` elements, from `start`, of the `block` of a weight, which stand in a shard from `offset`."""

    weight: str
    block: Block
    start: int
    length: int
    offset: int

    def cut(self, begin: int, end: int) -> Piece | None:
        """What of it lies in [begin, end) of its own elements."""
        begin, end = max(begin, 0), min(end, self.length)
        if begin >= end:
            return None
        return Piece(self.weight, self.block, self.start + begin, end - begin, self.offset + begin)

    def rectangles(self) -> Iterator[Rectangle]:
        """The end of a row, whole rows, the beginning of one: what there is of them."""
        top, left, width, _ = self.block
        start, stop = self.start, self.start + self.length
        first = min(stop, -(-start // width) * width)
        last = max(first, stop // width * width)
        for begin, end in ((start, first), (first, last), (last, stop)):
            if begin < end:
                row, column = divmod(begin, width)
                height = -(-(end - begin) // width)
                offset = self.offset + begin - start
                yield Rectangle(top + row, left + column, height, (end - begin) // height, offset)


@dataclass(frozen=True)
class Shard:
    """A flat tensor that the optimizer steps: of its `group`, cut from `weights` (name and shape), in this order."""

    flat: Tensor
    group: int
    weights: list[tuple[str, torch.Size]]
    pieces: list[Piece]

    def tensors(self, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
        """Everything to save of the pieces, by KEY/WEIGHT/ROW/COLUMN."""
        state = optimizer.save_state(self.flat, self.group)
        for piece in self.pieces:
            for found in piece.rectangles():
                for key, value in {WEIGHT: self.flat, **state.elements}.items():
                    yield f"{key}/{piece.weight}/{found.row}/{found.column}", found.of(value)
        begun = {piece.weight for piece in self.pieces if piece.start == 0}  # on one rank of all
        for key, value in state.wholes.items():
            for (name, _), part in zip(self.weights, value.split([sum(s) for _, s in self.weights]), strict=True):
                if name in begun:
                    yield f"{key}/{name}/0/0", part.view(1, -1)

    def load_state(self, optimizer: Optimizer, state: State) -> None:
        """Take up weights and optimizer state."""
        keys, whole_state = state.keys(self.weights[0][0]), optimizer.rule(self.group).whole_state
        elements: dict[str, Tensor] = {WEIGHT: self.flat}
        wholes: dict[str, Tensor] = {}
        for key, dtype in keys.items():
            if key in whole_state:
                parts = [self.flat.new_empty(sum(shape)) for _, shape in self.weights]
                for (name, _), part in zip(self.weights, parts, strict=True):
                    state.read(key, name, 0, 0, part.view(1, -1))
                wholes[key] = torch.cat(parts)
                continue
            into = elements.setdefault(key, torch.zeros_like(self.flat.detach(), dtype=dtype))
            for piece in self.pieces:
                for found in piece.rectangles():
                    state.read(key, piece.weight, found.row, found.column, found.of(into))
        del elements[WEIGHT]
        optimizer.load_state(self.flat, self.group, FlatState(elements, wholes, state.numbers[str(self.group)]))


def of_rank(engine: Any, optimizer: Optimizer) -> list[Shard]:
    """Everything this rank holds, for an engine of DeepSpeed's at any stage."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    zero, found = engine.optimizer, []
    member = dist.get_rank() % max(1, engine.autotp_size())  # of the neighbours that share layers
    if zero is optimizer:
        for group, held in enumerate(optimizer.param_groups):
            for p in held["params"]:
                piece = Piece(names[p], block(p, member), 0, p.numel(), 0)
                found.append(Shard(p, group, [(names[p], p.shape)], [piece]))
        return found
    rank = dist.get_rank(engine.seq_data_parallel_group)
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        flats = zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
        for number, (flat, parameters) in enumerate(flats):
            pieces, offset = [], 0
            for parameter in parameters:
                share = parameter.partition_numel()
                start = rank * share
                held = min(share, parameter.ds_numel - start)  # the last shares are padded, or all padding
                if held > 0:
                    pieces.append(Piece(names[parameter], block(parameter, member), start, held, offset))
                offset += share
            weights = [(names[p], p.ds_shape) for p in parameters]
            found.append(Shard(flat, zero.sub_group_to_group_id[number], weights, pieces))
        return found
    flats = zip(zero.single_partition_of_fp32_groups, zero.round_robin_bit16_groups, strict=True)
    for group, (flat, parameters) in enumerate(flats):
        cuts, offset = [], -rank * flat.numel()  # where a weight begins in this rank's part of the group
        for parameter in parameters:
            piece = Piece(names[parameter], block(parameter, member), 0, parameter.numel(), offset)
            cuts.append(piece.cut(-offset, flat.numel() - offset))
            offset += parameter.numel()
        weights = [(names[p], p.shape) for p in parameters]
        found.append(Shard(flat, group, weights, [piece for piece in cuts if piece]))
    return found


def to_save(engine: Any, optimizer: Optimizer) -> list[Shard]:
    """This rank's part of the whole state: all ranks' parts together hold every element once."""
    own = [replace(s, pieces=[piece for piece in s.pieces if piece.block.saved]) for s in of_rank(engine, optimizer)]
    if engine.optimizer is not optimizer:
        return own
    rank, ranks = dist.get_rank(engine.seq_data_parallel_group), dist.get_world_size(engine.seq_data_parallel_group)
    total = sum(piece.length for shard in own for piece in shard.pieces)
    begin, end = total * rank // ranks, total * (rank + 1) // ranks
    found, before = [], 0
    for shard in own:
        for piece in shard.pieces:
            if part := piece.cut(begin - before, end - before):
                found.append(replace(shard, pieces=[part]))
            before += piece.length
    return found


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
