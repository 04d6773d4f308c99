"""Which samples a rank trains on in a step: arithmetic on the step, so that no loader state exists to be lost.

Step s takes the positions of the run's order that follow those of the steps before it, as many as its global batch
has sequences; rank r takes the r-th of `num_workers` equal slices (ranks that share sequences or layers take one
together). Neither workers nor accumulation change what a step sees. Every kind of training brings a `Source` of such
batches; the loop is the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from pipelines.specs import PretrainSpec, ScalingSpec, TrainingSpec
from pipelines.stages.training.batch_sizes import BatchSizes

Batch: TypeAlias = Tensor | dict[str, Tensor]  # the first dimension is the sequences


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch is split: `accumulation` forward passes of `micro_batch` sequences on each of the workers, or
    on each group of neighbours among them that see the same ones: `sequence_parallel_size` workers share each sequence,
    `tensor_parallel_size` workers each layer.

    Smaller batches at the beginning, where `sizes` has them, are split alike into fewer passes.
    """

    global_batch: int
    num_workers: int
    micro_batch: int
    accumulation: int
    steps: int
    sizes: BatchSizes
    sequence_parallel_size: int = 1
    tensor_parallel_size: int = 1

    @property
    def group_size(self) -> int:
        """Workers that see the same sequences."""
        return self.sequence_parallel_size * self.tensor_parallel_size

    @property
    def num_groups(self) -> int:
        """Groups of workers that see the same sequences: the data-parallel ranks."""
        return self.num_workers // self.group_size

    @property
    def zero_size(self) -> int:
        """Workers with the same part of each layer, over which ZeRO shards, and averages gradients."""
        return self.num_workers // self.tensor_parallel_size

    def group(self, rank: int) -> int:
        """The group that a rank is of."""
        return rank // self.group_size

    @property
    def num_positions(self) -> int:
        """Sequences of the whole run."""
        return self.sizes.before(self.steps)

    def batch(self, step: int) -> tuple[int, int]:
        """First and last-plus-one position of a step."""
        start = self.sizes.before(step)
        return start, start + self.sizes.size(step)

    def positions(self, step: int, rank: int) -> tuple[int, int]:
        """First and last-plus-one position of a rank in a step."""
        share = self.sizes.size(step) // self.num_groups
        start = self.sizes.before(step) + self.group(rank) * share
        return start, start + share


def plan_batches(spec: TrainingSpec, scaling: ScalingSpec, steps: int) -> BatchPlan:
    """Raises SpecError where the global batch, or the first of a growing one, does not divide, and for a stage whose
    sequences cannot be shared, or its layers."""
    spec.check_scaling(scaling)
    sizes, sharing, cutting = BatchSizes.of(spec), scaling.sequence_parallel_size, scaling.tensor_parallel_size
    groups = scaling.num_workers // (sharing * cutting)
    micro = scaling.micro_batch_size or sizes.start // groups
    accumulation = sizes.final // groups // micro
    return BatchPlan(sizes.final, scaling.num_workers, micro, accumulation, steps, sizes, sharing, cutting)


def pretrain_steps(spec: PretrainSpec, sequence_length: int) -> int:
    """Steps that a run's tokens make, at least one."""
    return max(1, BatchSizes.of(spec).steps(spec.total_tokens // sequence_length))


@dataclass(frozen=True)
class Share:
    """A rank's share of a global batch. Losses are summed and divided by the whole batch's `divisor`."""

    micro_batches: list[Batch]
    divisor: float
    tokens: int  # of the global batch, for the log
