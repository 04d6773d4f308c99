"""Which samples a rank trains on in a step: arithmetic on the step, so that no loader state exists to be lost.

Step s takes positions [s * G, (s + 1) * G) of the run's order, G sequences a global batch; rank r takes the r-th of
`num_workers` equal slices. Neither workers nor accumulation change what a step sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cluster.errors import SpecError
from cluster.specs import PretrainSpec, ScalingSpec
from pipelines.tokens.order import Order
from pipelines.tokens.reader import TokenStore


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch is split: `accumulation` forward passes of `micro_batch` sequences on each of the workers."""

    global_batch: int
    num_workers: int
    micro_batch: int
    accumulation: int
    steps: int

    def positions(self, step: int, rank: int) -> tuple[int, int]:
        """First and last-plus-one position of a rank in a step."""
        share = self.global_batch // self.num_workers
        start = step * self.global_batch + rank * share
        return start, start + share


def plan_batches(spec: PretrainSpec, scaling: ScalingSpec, sequence_length: int) -> BatchPlan:
    """Raises SpecError where the global batch does not divide."""
    total, workers = spec.global_batch_size, scaling.num_workers
    if total % workers:
        raise SpecError(
            f"pretrain.global_batch_size: {total} sequences do not divide among {workers} workers",
            f"Set scaling.num_workers to a divisor of {total}, or change the batch (which changes the model).",
        )
    share = total // workers
    micro = scaling.micro_batch_size or share
    if share % micro:
        raise SpecError(
            f"scaling.micro_batch_size: {micro} does not divide the {share} sequences of a worker's step",
            f"Take a divisor of {share}, such as {max(d for d in range(1, min(micro, share) + 1) if share % d == 0)}.",
        )
    steps = max(1, spec.total_tokens // (total * sequence_length))
    return BatchPlan(total, workers, micro, share // micro, steps)


class Batches:
    """The training batches of one rank."""

    def __init__(self, store: TokenStore, plan: BatchPlan, seed: int, rank: int) -> None:
        self.store = store
        self.plan = plan
        self.rank = rank
        self.order = Order(store.num_sequences, seed)

    def step(self, step: int) -> list[Tensor]:
        """The micro-batches of a step, each (micro_batch, sequence_length + 1) int64."""
        samples = self.order.samples(*self.plan.positions(step, self.rank))
        return list(stack(self.store, samples.tolist()).split(self.plan.micro_batch))


def stack(store: TokenStore, samples: list[int]) -> Tensor:
    """Sequences of a store as one tensor (len(samples), sequence_length + 1) int64."""
    return torch.from_numpy(np.stack([store.sequence(sample) for sample in samples]))
