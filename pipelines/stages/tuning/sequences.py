"""Encoded conversations as one file: ragged token ids with a mask, padded only when a batch is made.

Padding stands to the right, where causal attention never looks, so that a row of one conversation needs no mask. Packed
rows (Ding et al. 2024, arXiv:2404.10830) hold several, whole; attention.py keeps them apart.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from cluster.core import metrics
from cluster.core.encoding import Encoded
from cluster.core.storage.location import Location
from pipelines.specs import TrainingSpec
from pipelines.stages.tokens.order import Order
from pipelines.stages.tokens.packing import best_fit
from pipelines.stages.training.batches import BatchPlan, Share
from pipelines.stages.training.sources import Source

if TYPE_CHECKING:
    from pipelines.stages.training.engine.engine import Engine


class Sequences:
    """Token ids and masks of many rows, in memory; a row is a conversation, or several once they are `packed`."""

    def __init__(
        self,
        tokens: NDArray[np.int32],
        learn: NDArray[np.bool_],
        ends: NDArray[np.int64],
        starts: NDArray[np.int64] | None = None,
    ) -> None:
        """`ends` of the rows, in tokens; `starts` of the conversations, where rows may hold several."""
        self._tokens, self._learn = tokens, learn
        self._bounds = np.concatenate([[0], ends])
        self._starts = starts
        self.lengths = np.diff(self._bounds)
        learned = np.concatenate([[0], np.cumsum(learn)])
        self.learned = learned[self._bounds[1:]] - learned[self._bounds[:-1]]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def conversation_lengths(self) -> NDArray[np.int64]:
        """Tokens of each conversation."""
        return self.lengths if self._starts is None else np.diff(self._starts, append=self._bounds[-1])

    @staticmethod
    def collect(encoded: Iterable[Encoded]) -> Sequences:
        """Conversations, one to a row."""
        tokens, learn, ends = array("i"), bytearray(), array("q")
        for one in encoded:
            tokens.extend(one.tokens)
            learn += bytes([False, *one.learn[1:]])  # before a conversation's first token is nothing to tell it from
            ends.append(len(tokens))
        return Sequences(np.frombuffer(tokens, np.int32), np.frombuffer(learn, np.bool_), np.frombuffer(ends, np.int64))

    def packed(self, capacity: int) -> Sequences:
        """The same conversations, each whole, in as few rows of at most `capacity` tokens as best fit finds."""
        found = best_fit(self.lengths, capacity)
        pieces = [slice(start, stop) for start, stop in found.segments.tolist()]
        lengths = found.segments[:, 1] - found.segments[:, 0]
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        return Sequences(
            np.concatenate([self._tokens[piece] for piece in pieces]),
            np.concatenate([self._learn[piece] for piece in pieces]),
            bounds[found.offsets[1:]],
            bounds[:-1],
        )

    def save(self, place: Location, name: str) -> None:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"tokens": self._tokens, "learn": self._learn, "ends": self._bounds[1:]}
        np.savez(buffer, **arrays if self._starts is None else arrays | {"starts": self._starts})
        place.write_bytes(name, buffer.getvalue())

    @staticmethod
    def load(place: Location, name: str) -> Sequences:
        with np.load(io.BytesIO(place.read_bytes(name))) as file:
            return Sequences(**file)

    def batch(self, samples: list[int]) -> dict[str, Tensor]:
        """tokens (len(samples), length + 1) int64, padded with 0; learn (len(samples), length) bool, of the labels.

        Of packed rows also `starts`, (len(samples), length) bool: where conversations start, and padding does.
        """
        length = int(max(self.lengths[samples]))
        tokens = torch.zeros((len(samples), length), dtype=torch.int64)
        learn = torch.zeros((len(samples), length), dtype=torch.bool)
        starts = torch.zeros((len(samples), length), dtype=torch.bool)
        for row, sample in enumerate(samples):
            begin, end = self._bounds[sample : sample + 2]
            tokens[row, : end - begin] = torch.from_numpy(self._tokens[begin:end].astype(np.int64))
            learn[row, : end - begin] = torch.from_numpy(self._learn[begin:end])
            if self._starts is not None:
                first, last = np.searchsorted(self._starts, [begin, end])
                starts[row, torch.from_numpy(self._starts[first:last] - begin)] = True
                starts[row, end - begin :][:1] = True
        found = {"tokens": tokens, "learn": learn[:, 1:]}
        return found if self._starts is None else found | {"starts": starts[:, :-1]}

    def padding_share(self, seed: int, micro_batch: int) -> float:
        """The share of padding in the micro-batches of an epoch, where an order of this seed is cut into such."""
        count = max(1, len(self) // micro_batch) * micro_batch
        lengths = self.lengths[Order(len(self), seed).samples(0, count)].reshape(-1, micro_batch)
        return round(1 - float(lengths.sum()) / float(lengths.max(axis=1).sum() * micro_batch), 4)


class ConversationBatches(Source):
    """Rows in shuffled order; the loss of a batch is the mean over its learned tokens."""

    def __init__(
        self, train: Sequences, heldout: dict[str, Sequences], plan: BatchPlan, spec: TrainingSpec, rank: int
    ) -> None:
        """`heldout` by the name of what else is validated on; the run's own has none."""
        self.train, self.heldout = train, heldout
        self.plan, self.rank = plan, rank
        self.order = Order(len(train), spec.seed)

    def share(self, step: int, engine: Engine) -> Share:
        whole = self.order.samples(*self.plan.batch(step))
        own = self.order.samples(*self.plan.positions(step, self.rank)).tolist()
        size = self.plan.micro_batch
        micro_batches = [self.train.batch(own[i : i + size]) for i in range(0, len(own), size)]
        return Share(list(micro_batches), float(self.train.learned[whole].sum()), int(self.train.lengths[whole].sum()))

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        """Mean loss (nats per learned token) over the held-out rows; of each other set its own."""
        summed = torch.zeros(len(self.heldout), dtype=torch.float64)
        for number, rows in enumerate(self.heldout.values()):
            for samples, counts in self.rounds(len(rows)):
                found = engine.evaluate(rows.batch(samples))
                summed[number] += found[0] if counts else 0.0
        dist.all_reduce(summed)
        return {
            f"{metrics.VALIDATION_LOSS}_{name}".rstrip("_"): loss / float(rows.learned.sum())
            for (name, rows), loss in zip(self.heldout.items(), summed.tolist(), strict=True)
        }
