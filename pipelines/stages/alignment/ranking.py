"""The loss of reward models, and batches of what it is taken of: pairs of answers, and ranked lists of them.

Of a list, minus the log-probability of its order under Plackett (1975) and Luce (1959): the best answer wins against
all, the next against the rest. Of two answers that is Bradley and Terry's -log sigmoid(r_chosen - r_rejected), as in
Ouyang et al. 2022 (arXiv:2203.02155, equation 1), less a margin as in Llama 2 (arXiv:2307.09288, equation 2); a tie is
half a victory of each (Hunter 2004, "MM algorithms for generalized Bradley-Terry models"). Scores are centred by a term
of their own (Eisenstein et al. 2023, arXiv:2312.09244, section 2).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cluster.core import metrics
from cluster.core.storage.location import Location
from pipelines.specs import RewardSpec
from pipelines.stages.evaluation.results import wilson
from pipelines.stages.tokens.order import Order
from pipelines.stages.training.batches import BatchPlan, Share
from pipelines.stages.training.objectives.objective import Objective
from pipelines.stages.training.sources import Source
from pipelines.stages.tuning.sequences import Sequences

if TYPE_CHECKING:
    from pipelines.stages.training.engine.engine import Engine

ACCURACY = "accuracy"  # share of pairs whose chosen answer has the higher score; of a list, of all its pairs
BINS = 10  # of the calibration error
PASSES = 4  # of a micro-batch


def scores(model: Any, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Rewards (batch,) fp32 of right-padded sequences (batch, length) of `lengths` tokens each."""
    hidden = getattr(model, model.base_model_prefix)(tokens, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(tokens), device=tokens.device), lengths - 1]
    return model.score(last).squeeze(-1).float()


def scores_by_length(model: Any, tokens: Tensor, lengths: Tensor, passes: int) -> Tensor:
    """The same in so many passes of sequences of like length, of which each is padded to its own longest: half of what
    is computed would be padding. `passes` is at most the number of sequences."""
    order = lengths.argsort(stable=True)
    found = [
        scores(model, tokens[rows, : int(lengths[rows].max())], lengths[rows]) for rows in order.tensor_split(passes)
    ]
    return torch.cat(found)[order.argsort()]


def in_lists(found: Tensor, sizes: Tensor) -> Tensor:
    """Scores (answers,) as lists (lists, longest), padded with 0; `sizes` (lists,) of each."""
    places = torch.arange(int(sizes.max()), device=found.device)
    index = (sizes.cumsum(0) - sizes).unsqueeze(1) + places
    return found[index.clamp(max=len(found) - 1)].where(places < sizes.unsqueeze(1), 0)


def ranking_losses(lists: Tensor, sizes: Tensor, margins: Tensor, ties: Tensor) -> Tensor:
    """The loss of each list (lists,) of scores (lists, longest), the best first. `margins` (lists,) by which the first
    is to be better than the others; `ties` (lists,) bool, of two answers of which neither is better."""
    places = torch.arange(lists.size(1), device=lists.device)
    counted = places[1:] < sizes.unsqueeze(1)  # all but a list's last
    behind = (places > places[:-1].unsqueeze(1)) & (places < sizes.unsqueeze(1)).unsqueeze(1)
    tails = lists.unsqueeze(1).expand_as(behind).masked_fill(~behind, -torch.inf)
    tails = tails.masked_fill(~counted.unsqueeze(2), 0.0).logsumexp(2)
    gaps = (lists[:, :-1] - tails - margins.unsqueeze(1)).where(counted, 0)
    losses = -F.logsigmoid(gaps).where(counted, 0).sum(1)
    drawn = -(F.logsigmoid(gaps[:, 0]) + F.logsigmoid(-gaps[:, 0])) / 2
    return torch.where(ties, drawn, losses)


def in_order(lists: Tensor, sizes: Tensor, ties: Tensor) -> Tensor:
    """The share of each list's pairs whose better answer has the higher score (lists,); of a tie 1/2."""
    places = torch.arange(lists.size(1), device=lists.device)
    pairs = (places.unsqueeze(0) > places.unsqueeze(1)) & (places < sizes.unsqueeze(1)).unsqueeze(1)
    right = (lists.unsqueeze(2) > lists.unsqueeze(1)) & pairs
    return torch.where(ties, 0.5, right.sum((1, 2)) / pairs.sum((1, 2)))


def calibration_error(margins: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3) of the probability that a model gives
    to the answer that it prefers, sigmoid(|margin|), in ten bins between 1/2 and 1: 0 is calibrated, 1/2 the worst.

    margins (pairs,): the score of the better answer less that of the worse; weights (pairs,)."""
    sure = 1 / (1 + np.exp(-np.abs(margins)))
    bins = np.minimum((sure - 0.5) * 2 * BINS, BINS - 1).astype(int)
    gaps = np.bincount(bins, weights * (sure - (margins > 0)), BINS)
    return float(np.abs(gaps).sum() / weights.sum())


class Ranking(Objective):
    """Lists of answers, one after another, the best first: tokens (answers, length), lengths (answers,), sizes, margins
    and ties (lists,). In evaluation there are no margins, and nothing is centred."""

    names = (ACCURACY,)

    def __init__(self, model: Any, precision: str, center_coef: float, margin_scale: float) -> None:
        super().__init__(model, precision)
        self.center_coef, self.margin_scale = center_coef, margin_scale

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        sizes, ties = batch["sizes"], batch["ties"]
        passes = min(PASSES, 2 * len(sizes))  # the same on all ranks, which gather sharded weights together
        with self.autocast(batch["tokens"]):
            found = scores_by_length(self.model, batch["tokens"], batch["lengths"], passes)
        lists = in_lists(found, sizes)
        self.add_sums(in_order(lists, sizes, ties).sum())
        margins = batch["margins"] * (self.margin_scale if self.training else 0.0)
        losses = ranking_losses(lists, sizes, margins, ties)
        if self.training and self.center_coef:  # of a pair, the square of the sum of both
            losses = losses + self.center_coef * (2 * lists.sum(1) / sizes).square()
        return losses.sum()


@dataclass(frozen=True)
class Lists:
    """Answers as sequences, list after list; of each list the size, the margin (0: none) and whether it is a tie."""

    sequences: Sequences
    sizes: NDArray[np.int64]
    margins: NDArray[np.float64]
    ties: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.sizes)

    def rows(self, samples: Sequence[int]) -> list[int]:
        """The sequences of some lists."""
        ends = np.cumsum(self.sizes)
        return [row for s in samples for row in range(int(ends[s] - self.sizes[s]), int(ends[s]))]

    def batch(self, samples: Sequence[int]) -> dict[str, Tensor]:
        """What `Ranking` takes."""
        rows, own = self.rows(samples), list(samples)
        return {
            "tokens": self.sequences.batch(rows)["tokens"],
            "lengths": torch.from_numpy(self.sequences.lengths[rows]),
            "sizes": torch.from_numpy(self.sizes[own]),
            "margins": torch.from_numpy(self.margins[own]).float(),
            "ties": torch.from_numpy(self.ties[own]),
        }

    def save(self, place: Location, name: str) -> None:
        self.sequences.save(place, f"{name}.npz")
        buffer = io.BytesIO()
        np.savez(buffer, sizes=self.sizes, margins=self.margins, ties=self.ties)
        place.write_bytes(f"{name}-lists.npz", buffer.getvalue())

    @staticmethod
    def load(place: Location, name: str) -> Lists:
        with np.load(io.BytesIO(place.read_bytes(f"{name}-lists.npz"))) as file:
            return Lists(Sequences.load(place, f"{name}.npz"), **file)


class ListBatches(Source):
    """Lists in shuffled order; the loss is their mean. Ties are not validated on: nothing in them is right."""

    def __init__(self, train: Lists, heldout: Lists, plan: BatchPlan, spec: RewardSpec, rank: int) -> None:
        self.train, self.heldout = train, heldout
        self.plan, self.rank = plan, rank
        self.order = Order(len(train), spec.seed)
        self.validated = np.flatnonzero(~heldout.ties)[: spec.validation_pairs].tolist()

    def share(self, step: int, engine: Engine) -> Share:
        whole = self.order.samples(*self.plan.batch(step)).tolist()
        own = self.order.samples(*self.plan.positions(step, self.rank)).tolist()
        size = self.plan.micro_batch
        micro_batches = [self.train.batch(own[i : i + size]) for i in range(0, len(own), size)]
        return Share(list(micro_batches), len(whole), int(self.train.sequences.lengths[self.train.rows(whole)].sum()))

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        summed = torch.zeros(2, dtype=torch.float64)
        count = len(self.validated)
        for places, counts in self.rounds(count):
            found = engine.evaluate(self.heldout.batch([self.validated[place] for place in places]))
            summed += found if counts else 0.0
        dist.all_reduce(summed)
        loss, right = (summed / count).tolist()
        low, high = wilson(right * count, count)
        found = {metrics.VALIDATION_LOSS: loss, "heldout_accuracy": right, "heldout_pairs": count}
        return {**found, "heldout_accuracy_low": low, "heldout_accuracy_high": high}
