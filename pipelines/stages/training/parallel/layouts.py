"""Where ZeRO put the weights: what lets an optimizer that needs whole matrices work on flat shards.

ZeRO hands an optimizer flat pieces of many parameters. AdamW does not care; Muon and Adafactor need to know which
element of which weight each of them is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Whole:
    """A weight before it was cut: its shape, and the factor on its update (Muon)."""

    shape: torch.Size
    scale: float = 1.0


class Piece(NamedTuple):
    """A run of consecutive elements of one weight in a flat shard."""

    number: int  # of the weight, in its group
    at: slice  # of the shard
    begin: int  # the weight's element that comes first


@dataclass
class Layout:
    """Where the weights of a flat group lie.

    All ranks' shards together are `rows` rows (1: parameters one after another, cut into equal shards, ZeRO 1 and 2;
    the number of ranks: each parameter cut into one piece a rank, ZeRO 3). Weight i fills the columns `columns[i]` of
    them, row by row, with padding at the end. `device` is where the ranks exchange tensors.
    """

    wholes: list[Whole]
    columns: list[tuple[int, int]]
    rows: int
    rank: int
    ranks: int
    device: torch.device

    def gather(self, shard: Tensor) -> Tensor:
        """The shards of all ranks, (rows, columns)."""
        gathered = torch.empty(self.ranks * shard.numel(), dtype=shard.dtype, device=self.device)
        dist.all_gather_into_tensor(gathered, shard.to(self.device))
        return gathered.view(self.rows, -1)

    def mine(self, shard: Tensor) -> range:
        """Which elements of the gathered shards are this rank's."""
        return range(self.rank * shard.numel(), (self.rank + 1) * shard.numel())

    def pieces(self, shard: Tensor) -> Iterator[Piece]:
        """What this rank's shard consists of, without the padding."""
        first = 0 if self.rows > 1 else self.rank * shard.numel()
        for number, (whole, (start, stop)) in enumerate(zip(self.wholes, self.columns, strict=True)):
            skipped = (stop - start) * self.rank if self.rows > 1 else 0  # elements of the weight in the rows above
            low, high = max(start, first), min(stop, first + shard.numel())
            begin = skipped + low - start
            count = min(high - low, whole.shape.numel() - begin)
            if count > 0:
                yield Piece(number, slice(low - first, low - first + count), begin)

    def all_reduce(self, sums: Tensor) -> Tensor:
        """The sums over all ranks, where `sums` is."""
        exchanged = sums.to(self.device)
        dist.all_reduce(exchanged)
        return exchanged.to(sums.device)


def zero_layouts(zero: Any, wholes: Mapping[Tensor, Whole], device: torch.device) -> dict[Tensor, Layout]:
    """The layouts of the groups whose parameters are in `wholes`, by this rank's flat tensor."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # ZeRO 3: each parameter is cut into one piece a rank
        groups = zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
        rows, sizes = ranks, [[p.partition_numel() for p in group] for group in zero.fp16_groups]
    else:  # ZeRO 1 and 2: parameters one after another are cut into equal pieces
        groups = zip(zero.single_partition_of_fp32_groups, zero.round_robin_bit16_groups, strict=True)
        rows, sizes = 1, [[p.numel() for p in group] for group in zero.round_robin_bit16_groups]
    layouts = {}
    for (flat, parameters), lengths in zip(groups, sizes, strict=True):
        if parameters[0] not in wholes:
            continue
        ends = torch.tensor(lengths).cumsum(0).tolist()
        columns = [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        layouts[flat] = Layout([wholes[p] for p in parameters], columns, rows, rank, ranks, device)
    return layouts
