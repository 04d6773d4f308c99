"""Where the batches of a run come from: a function of the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.core import metrics
from pipelines.specs import PretrainSpec
from pipelines.stages.tokens.reader import TokenStore
from pipelines.stages.tokens.stream import TokenStream
from pipelines.stages.training.batches import Batch, BatchPlan, Share
from pipelines.stages.training.objectives.objectives import objective_for
from pipelines.stages.training.samples import Sampler

if TYPE_CHECKING:
    from pipelines.stages.training.engine.engine import Engine


class Source:
    """Where the batches of a run come from: a function of the step, and in RL of the weights and of what it kept.

    All ranks call everything in the same order.
    """

    plan: BatchPlan
    rank: int

    def save_state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on as if nothing had happened, the same on all ranks: plain JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `save_state` returned; of a checkpoint of before it did, `{}`."""

    def restart(self, step: int) -> None:
        """The run begins or goes on at `step`: whatever was begun later did not happen."""

    def share(self, step: int, engine: Engine) -> Share:
        """This rank's share of the batch of a step."""
        raise NotImplementedError

    def figures(self) -> dict[str, Any]:
        """What else there is to tell of the step that has just been taken."""
        return {}

    def notices(self) -> list[str]:
        """What is new to tell of the run's health, after an evaluation."""
        return []

    def taken(self, step: int) -> None:
        """The optimizer has taken the step."""

    def skipped(self, step: int, reason: str) -> None:
        """The optimizer has not taken the step: nothing was learned from its batch."""

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        """Figures on held-out data, the same on all ranks."""
        return {}

    def rounds(self, count: int) -> Iterator[tuple[list[int], bool]]:
        """This rank's validation samples among `count`, in micro-batches, and whether they count.

        Under ZeRO 3 ranks must make equally many passes: one that has nothing left repeats and counts nothing.
        """
        share = -(-count // self.plan.num_groups)
        first = self.plan.group(self.rank) * share
        for start in range(0, share, self.plan.micro_batch):
            samples = list(range(first + start, min(first + min(start + self.plan.micro_batch, share), count)))
            yield (samples, True) if samples else ([0], False)


class TokenBatches(Source):
    """Sequences of a token store or a mixture, each micro-batch (micro_batch, sequence_length + 1) int64; or, by a
    sampler, samples of them: tensors (micro_batch, sequence_length) int64."""

    def __init__(
        self,
        stream: TokenStream,
        heldout: dict[str, TokenStore],
        plan: BatchPlan,
        spec: PretrainSpec,
        rank: int,
        sampler: Sampler | None = None,
        others: dict[str, TokenStore] | None = None,
    ) -> None:
        """`heldout` by source, as the stores of `stream`; `others` are validated on besides, by name."""
        self.stream, self.heldout, self.others = stream, heldout, others or {}
        self.sampler, self.plan, self.rank = sampler, plan, rank
        self.seed, self.objectives = spec.seed, spec.shares
        self.count_labels = objective_for(spec.shares).count_labels
        self.validation_sequences = spec.validation_sequences

    def share(self, step: int, engine: Engine | None = None) -> Share:
        tokens = self.stream.num_labels(*self.plan.batch(step))
        micro_batches = self.micro_batches(step)
        if self.sampler is None:
            return Share(micro_batches, tokens, tokens)
        labels = torch.tensor(sum(map(self.count_labels, micro_batches)))  # what is asked for is known once it is drawn
        dist.all_reduce(labels)
        return Share(micro_batches, max(1, int(labels)), tokens)

    def micro_batches(self, step: int) -> list[Batch]:
        """This rank's micro-batches of a step: a function of the step alone."""
        start, stop = self.plan.positions(step, self.rank)
        sequences, size = self.stream.read(start, stop), self.plan.micro_batch
        if self.sampler is None:
            return list(torch.from_numpy(sequences).split(size))
        batch = self.sampler.batch(sequences, ([self.seed, position] for position in range(start, stop)))
        return [{name: tensor[at : at + size] for name, tensor in batch.items()} for at in range(0, stop - start, size)]

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        """Mean loss (nats per token asked for) over the first `validation_sequences` of the held-out split.

        Of a mixture: of each source (`validation_loss_NAME`), and their mean by the weights of the whole run; of
        several objectives: of each of them on the same sequences, too, and their mean by their shares. Of each other
        set, `validation_loss_NAME` as well.
        """
        losses = self._losses(engine, self.heldout)
        sources, objectives = self.stream.order.shares(self.plan.num_positions), list(self.objectives.values())
        by_source = [_mean(objectives, row) for row in losses]
        named = {"": _mean(sources, by_source)}
        if self.stream.is_mixture:
            named |= dict(zip(self.heldout, by_source, strict=True))
        if len(self.objectives) > 1:
            by_objective = (_mean(sources, column) for column in zip(*losses, strict=True))
            named |= dict(zip(self.objectives, by_objective, strict=True))
        for name, row in zip(self.others, self._losses(engine, self.others), strict=True):
            named[name] = _mean(objectives, row)
        return {f"{metrics.VALIDATION_LOSS}_{name}".rstrip("_"): loss for name, loss in named.items()}

    def _losses(self, engine: Engine, stores: dict[str, TokenStore]) -> list[list[float]]:
        """The mean losses over the first `validation_sequences` of each store, by objective."""
        summed = torch.zeros(2, len(stores), len(self.objectives), dtype=torch.float64)
        for number, store in enumerate(stores.values()):
            for column, objective in enumerate(self.objectives):
                for samples, counts in self.rounds(min(self.validation_sequences, store.num_sequences)):
                    batch = self.heldout_batch(store, samples, objective)
                    found = engine.evaluate(batch)
                    if counts:
                        summed[:, number, column] += torch.tensor([float(found[0]), float(self.count_labels(batch))])
        dist.all_reduce(summed)
        summed[1] /= self.plan.group_size  # each of those who see a sequence counted all of its labels
        return (summed[0] / summed[1].clamp(min=1)).tolist()

    def heldout_batch(self, store: TokenStore, samples: list[int], objective: str) -> Batch:
        """Held-out samples for an objective, the same whatever the run."""
        if self.sampler is None:
            return stack(store, samples)
        return self.sampler.batch(stack(store, samples).numpy(), ([sample] for sample in samples), objective)


def _mean(shares: Iterable[float], losses: Iterable[float]) -> float:
    return sum(share * loss for share, loss in zip(shares, losses, strict=True))


def stack(store: TokenStore, samples: list[int]) -> Tensor:
    """Sequences of a store as one tensor (len(samples), sequence_length + 1) int64."""
    return torch.from_numpy(np.stack([store.sequence(sample) for sample in samples]))
