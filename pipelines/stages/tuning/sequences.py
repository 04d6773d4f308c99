"""Encoded conversations as one file: ragged token ids with a mask, padded only when a batch is made.

Padding stands to the right, where causal attention never looks, so that no attention mask is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from cluster.core import metrics
from cluster.core.storage.location import Location
from pipelines.specs import TrainingSpec
from pipelines.stages.tokens.order import Order
from pipelines.stages.training.batches import BatchPlan, Share
from pipelines.stages.training.engine.engine import Engine
from pipelines.stages.training.sources import Source
from pipelines.stages.tuning.encoding import Encoded


class Sequences:
    """Token ids and masks of many conversations, in memory."""

    def __init__(self, tokens: NDArray[np.int32], learn: NDArray[np.bool_], ends: NDArray[np.int64]) -> None:
        self._tokens, self._learn = tokens, learn
        self._bounds = np.concatenate([[0], ends])
        self.lengths = np.diff(self._bounds)
        learned = np.concatenate([[0], np.cumsum(learn)])
        # A sequence's first token has nothing before it to be predicted from; encoders never mark it.
        self.learned = learned[self._bounds[1:]] - learned[self._bounds[:-1]]

    def __len__(self) -> int:
        return len(self.lengths)

    @staticmethod
    def collect(encoded: Iterable[Encoded]) -> Sequences:
        found = list(encoded)
        tokens = np.array([token for e in found for token in e.tokens], dtype=np.int32)
        learn = np.array([learn for e in found for learn in e.learn], dtype=bool)
        return Sequences(tokens, learn, np.cumsum([len(e.tokens) for e in found], dtype=np.int64))

    def save(self, place: Location, name: str) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, tokens=self._tokens, learn=self._learn, ends=self._bounds[1:])
        place.write_bytes(name, buffer.getvalue())

    @staticmethod
    def load(place: Location, name: str) -> Sequences:
        with np.load(io.BytesIO(place.read_bytes(name))) as file:
            return Sequences(file["tokens"], file["learn"], file["ends"])

    def batch(self, samples: list[int]) -> dict[str, Tensor]:
        """tokens (len(samples), length + 1) int64, padded with 0; learn (len(samples), length) bool, of the labels."""
        length = int(max(self.lengths[samples]))
        tokens = torch.zeros((len(samples), length), dtype=torch.int64)
        learn = torch.zeros((len(samples), length), dtype=torch.bool)
        for row, sample in enumerate(samples):
            part = slice(self._bounds[sample], self._bounds[sample + 1])
            tokens[row, : self.lengths[sample]] = torch.from_numpy(self._tokens[part].astype(np.int64))
            learn[row, : self.lengths[sample]] = torch.from_numpy(self._learn[part])
        return {"tokens": tokens, "learn": learn[:, 1:]}


class ConversationBatches(Source):
    """Conversations in shuffled order; the loss of a batch is the mean over its learned tokens."""

    def __init__(
        self, train: Sequences, heldout: Sequences, plan: BatchPlan, spec: TrainingSpec, validation: int, rank: int
    ) -> None:
        self.train, self.heldout = train, heldout
        self.plan, self.rank = plan, rank
        self.order = Order(len(train), spec.seed)
        self.validation = min(validation, len(heldout))

    def share(self, step: int, engine: Engine) -> Share:
        whole = self.order.samples(*self.plan.batch(step))
        own = self.order.samples(*self.plan.positions(step, self.rank)).tolist()
        size = self.plan.micro_batch
        micro_batches = [self.train.batch(own[i : i + size]) for i in range(0, len(own), size)]
        return Share(list(micro_batches), float(self.train.learned[whole].sum()), int(self.train.lengths[whole].sum()))

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        """Mean loss (nats per learned token) over the first held-out conversations."""
        summed = torch.zeros((), dtype=torch.float64)
        for samples, counts in self.rounds(self.validation):
            found = engine.evaluate(self.heldout.batch(samples))
            summed += found[0] if counts else 0.0
        dist.all_reduce(summed)
        return {metrics.VALIDATION_LOSS: float(summed) / float(self.heldout.learned[: self.validation].sum())}
