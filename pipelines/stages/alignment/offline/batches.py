"""The batches of offline preference optimization: pairs, or single answers, in shuffled order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.core import metrics
from pipelines.specs import DpoSpec
from pipelines.stages.alignment.offline.answers import AnswerSet
from pipelines.stages.alignment.offline.objective import ACCURACY, BASELINE, Preference
from pipelines.stages.evaluation.results import wilson
from pipelines.stages.tokens.order import Order
from pipelines.stages.training.batches import BatchPlan, Share
from pipelines.stages.training.sources import Source

if TYPE_CHECKING:
    from pipelines.stages.training.engine.engine import Engine

HELDOUT = "heldout_"  # begins the names of figures on held-out preferences


class PreferenceBatches(Source):
    """Pairs, or of a loss on single answers those; the loss is their mean.

    Of single answers the baseline is the mean over the whole global batch: before each step, the policy is asked about
    the batch's mismatched answers.
    """

    def __init__(self, train: AnswerSet, heldout: AnswerSet, plan: BatchPlan, spec: DpoSpec, rank: int) -> None:
        self.train, self.heldout = train, heldout.first(spec.validation_pairs)
        self.plan, self.rank = plan, rank
        self.order = Order(len(train), spec.seed)

    def share(self, step: int, engine: Engine) -> Share:
        whole = self.order.samples(*self.plan.batch(step)).tolist()
        own = self.order.samples(*self.plan.positions(step, self.rank)).tolist()
        size = self.plan.micro_batch
        parts = [own[i : i + size] for i in range(0, len(own), size)]
        micro_batches = [self.train.batch(part) for part in parts]
        if not self.train.paired:
            baseline = self._baseline(engine, self.train, ((part, True) for part in parts), len(whole))
            desirable = self.train.desirable[whole]
            for batch, part in zip(micro_batches, parts, strict=True):
                batch |= alone(self.train, part, desirable, baseline)
        tokens = int(self.train.sequences.lengths[self.train.rows(whole)].sum())
        return Share(list(micro_batches), len(whole), tokens)

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        """The mean loss over held-out preferences, the accuracy of the rewards with its 95 % interval (Wilson), their
        means and margins, and mean log-probabilities (nats an answer)."""
        heldout, count = self.heldout, len(self.heldout)
        baseline = 0.0 if heldout.paired else self._baseline(engine, heldout, self.rounds(count), count)
        summed = torch.zeros(1 + len(Preference.names), dtype=torch.float64)
        for samples, counts in self.rounds(count):
            batch = heldout.batch(samples)
            if not heldout.paired:
                batch |= alone(heldout, samples, heldout.desirable, baseline)
            found = engine.evaluate(batch)
            summed += found if counts else 0.0
        dist.all_reduce(summed)
        loss, *figures = (summed / count).tolist()
        named = {HELDOUT + name: figure for name, figure in zip(Preference.names, figures, strict=True)}
        low, high = wilson(named[HELDOUT + ACCURACY] * count, count)
        interval = {f"{HELDOUT}{ACCURACY}_low": low, f"{HELDOUT}{ACCURACY}_high": high}
        return {
            metrics.VALIDATION_LOSS: loss,
            **named,
            **interval,
            HELDOUT + ("pairs" if heldout.paired else "answers"): count,
        }

    @staticmethod
    def _baseline(engine: Engine, of: AnswerSet, parts: Iterable[tuple[list[int], bool]], count: int) -> float:
        """The mean log ratio of the mismatched answers of `count` samples, of which this rank has `parts`."""
        summed = torch.zeros((), dtype=torch.float64)
        for samples, counts in parts:
            found = engine.evaluate(of.mismatched_batch(samples))[0]
            summed += found if counts else 0.0
        dist.all_reduce(summed)
        return float(summed) / count


def alone(
    of: AnswerSet, samples: Sequence[int], desirable: np.ndarray[Any, np.dtype[np.bool_]], baseline: float
) -> dict[str, Tensor]:
    """What a batch of single answers has besides. `desirable` are those of all samples whose mean is taken."""
    own = torch.from_numpy(of.desirable[list(samples)])
    wanted = max(1, int(desirable.sum()))
    others = max(1, len(desirable) - int(desirable.sum()))
    weights = torch.where(own, len(desirable) / wanted, len(desirable) / others)
    return {"desirable": own, "weights": weights, BASELINE: torch.full((len(own),), baseline)}
