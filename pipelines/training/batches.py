"""Which samples a rank trains on in a step: arithmetic on the step, so that no loader state exists to be lost.

Step s takes positions [s * G, (s + 1) * G) of the run's order, G sequences a global batch; rank r takes the r-th of
`num_workers` equal slices. Neither workers nor accumulation change what a step sees. Every kind of training brings a
`Source` of such batches; the loop is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cluster import metrics
from cluster.errors import SpecError
from cluster.specs import PretrainSpec, ScalingSpec, TrainingSpec
from pipelines.tokens.reader import TokenStore
from pipelines.tokens.stream import TokenStream

if TYPE_CHECKING:
    from pipelines.training.engine import Engine

Batch: TypeAlias = Tensor | dict[str, Tensor]  # the first dimension is the sequences


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch is split: `accumulation` forward passes of `micro_batch` sequences on each of the workers."""

    global_batch: int
    num_workers: int
    micro_batch: int
    accumulation: int
    steps: int

    @property
    def num_positions(self) -> int:
        """Sequences of the whole run."""
        return self.steps * self.global_batch

    def positions(self, step: int, rank: int) -> tuple[int, int]:
        """First and last-plus-one position of a rank in a step."""
        share = self.global_batch // self.num_workers
        start = step * self.global_batch + rank * share
        return start, start + share


def plan_batches(spec: TrainingSpec, scaling: ScalingSpec, steps: int) -> BatchPlan:
    """Raises SpecError where the global batch does not divide."""
    total, workers = spec.global_batch_size, scaling.num_workers
    if total % workers:
        raise SpecError(
            f"{spec.kind}.global_batch_size: {total} sequences do not divide among {workers} workers",
            f"Set scaling.num_workers to a divisor of {total}, or change the batch (which changes the model).",
        )
    share = total // workers
    micro = scaling.micro_batch_size or share
    if share % micro:
        raise SpecError(
            f"scaling.micro_batch_size: {micro} does not divide the {share} sequences of a worker's step",
            f"Take a divisor of {share}, such as {max(d for d in range(1, min(micro, share) + 1) if share % d == 0)}.",
        )
    return BatchPlan(total, workers, micro, share // micro, steps)


def pretrain_steps(spec: PretrainSpec, sequence_length: int) -> int:
    """Steps that a run's tokens make, at least one."""
    return max(1, spec.total_tokens // (spec.global_batch_size * sequence_length))


@dataclass(frozen=True)
class Share:
    """A rank's share of a global batch. Losses are summed and divided by the whole batch's `divisor`."""

    micro_batches: list[Batch]
    divisor: float
    tokens: int  # of the global batch, for the log


class Source:
    """Where the batches of a run come from: a function of the step (and, in RL, of the weights), without state.

    All ranks call everything in the same order.
    """

    plan: BatchPlan
    rank: int

    def restart(self, step: int) -> None:
        """The run begins or goes on at `step`: whatever was begun later did not happen."""

    def share(self, step: int, engine: Engine) -> Share:
        """This rank's share of the batch of a step."""
        raise NotImplementedError

    def figures(self) -> dict[str, Any]:
        """What else there is to tell of the step that has just been taken."""
        return {}

    def taken(self, step: int) -> None:
        """The optimizer has taken the step."""

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        """Figures on held-out data, the same on all ranks."""
        return {}

    def rounds(self, count: int) -> Iterator[tuple[list[int], bool]]:
        """This rank's validation samples among `count`, in micro-batches, and whether they count.

        Under ZeRO 3 ranks must make equally many passes: one that has nothing left repeats and counts nothing.
        """
        share = -(-count // self.plan.num_workers)
        first = self.rank * share
        for start in range(0, share, self.plan.micro_batch):
            samples = list(range(first + start, min(first + min(start + self.plan.micro_batch, share), count)))
            yield (samples, True) if samples else ([0], False)


class TokenBatches(Source):
    """Sequences of a token store or a mixture, each micro-batch (micro_batch, sequence_length + 1) int64."""

    def __init__(
        self,
        stream: TokenStream,
        heldout: dict[str, TokenStore],
        plan: BatchPlan,
        spec: PretrainSpec,
        rank: int,
        others: dict[str, TokenStore] | None = None,
    ) -> None:
        """`heldout` by source, as the stores of `stream`; `others` are validated on besides, by name."""
        self.stream, self.heldout, self.others = stream, heldout, others or {}
        self.plan, self.rank = plan, rank
        self.validation_sequences = spec.validation_sequences

    def share(self, step: int, engine: Engine | None = None) -> Share:
        sequences = torch.from_numpy(self.stream.read(*self.plan.positions(step, self.rank)))
        start = step * self.plan.global_batch
        tokens = self.stream.num_labels(start, start + self.plan.global_batch)
        return Share(list(sequences.split(self.plan.micro_batch)), tokens, tokens)

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        """Mean loss (nats per token) over the first `validation_sequences` of the held-out split.

        Of a mixture: of each source (`validation_loss_NAME`), and their mean by the weights of the whole run. Of each
        other set, `validation_loss_NAME` as well.
        """
        losses = self._losses(engine, self.heldout)
        shares = self.stream.order.shares(self.plan.num_positions)
        mean = sum(share * loss for share, loss in zip(shares, losses.values(), strict=True))
        each = (losses if self.stream.is_mixture else {}) | self._losses(engine, self.others)
        return {metrics.VALIDATION_LOSS: mean, **{f"{metrics.VALIDATION_LOSS}_{name}": each[name] for name in each}}

    def _losses(self, engine: Engine, stores: dict[str, TokenStore]) -> dict[str, float]:
        """The mean loss over the first `validation_sequences` of each store."""
        if not stores:
            return {}
        summed = torch.zeros(len(stores), dtype=torch.float64)
        counts = [min(self.validation_sequences, store.num_sequences) for store in stores.values()]
        for number, store in enumerate(stores.values()):
            for samples, counted in self.rounds(counts[number]):
                found = engine.evaluate(stack(store, samples))
                summed[number] += found[0] if counted else 0.0
        dist.all_reduce(summed)
        return {
            name: total / sum(map(store.num_labels, range(count)))
            for (name, store), count, total in zip(stores.items(), counts, summed.tolist(), strict=True)
        }


def stack(store: TokenStore, samples: list[int]) -> Tensor:
    """Sequences of a store as one tensor (len(samples), sequence_length + 1) int64."""
    return torch.from_numpy(np.stack([store.sequence(sample) for sample in samples]))
