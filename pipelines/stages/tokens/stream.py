"""The training sequences of a run by position, from one token store or from a mixture of several.

A mixture's files are references: its sources are opened as parents, in the store that the mixture itself was found in,
so that a worker on another node needs nothing but the artifact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.core.errors import SpecError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.draft import Draft
from pipelines.stages.tokens.ingest import GrowingStore, IngestOrder
from pipelines.stages.tokens.mixing.mixture import MAX_DEVIATION, Curriculum, MixedOrder
from pipelines.stages.tokens.order import Order
from pipelines.stages.tokens.reader import INDEX_FILE, TokenStore
from pipelines.stages.training.spec import VALIDATION

SINGLE = "tokens"  # what the source of a plain store is called


class TokenStream:
    """Sequences by position of the run; those of a single store are in the order of `Order(num_sequences, seed)`,
    or in windows."""

    def __init__(self, stores: dict[str, TokenStore], order: MixedOrder | IngestOrder) -> None:
        """`stores` by source, in the order of the sources of `order`."""
        self.stores = stores
        self.order = order
        self.is_mixture = len(stores) > 1
        self._by_number = list(stores.values())
        first = self._by_number[0]  # a mixture is built of like stores only
        self.sequence_length, self.vocab_size, self.eos_token_id = (
            first.sequence_length, first.vocab_size, first.eos_token_id,
        )  # fmt: skip

    def samples(self, start: int, stop: int) -> list[tuple[TokenStore, int]]:
        """The store and the number of the sequence at each of the positions [start, stop)."""
        sources, samples = self.order.samples(start, stop)
        return [(self._by_number[k], sample) for k, sample in zip(sources.tolist(), samples.tolist(), strict=True)]

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The sequences at positions [start, stop), shape (stop - start, sequence_length + 1)."""
        return np.stack([store.sequence(sample) for store, sample in self.samples(start, stop)])

    def num_labels(self, start: int, stop: int) -> int:
        """How many tokens of the positions [start, stop) are to be predicted."""
        if self._by_number[0].packing == "concatenate":  # of a mixture all stores are packed alike
            return (stop - start) * self.sequence_length
        return sum(store.num_labels(sample) for store, sample in self.samples(start, stop))

    def epochs(self, num_positions: int) -> dict[str, float]:
        """How often that many positions go through everything, and through each source of a mixture."""
        each = dict(zip(self.stores, self.order.epochs(num_positions), strict=True))
        total = sum(store.num_sequences for store in self._by_number)
        found = {"epochs": round(num_positions / total, 4)}
        if self.is_mixture:
            found |= {f"epochs_{name}": round(number, 4) for name, number in each.items()}
        return found


def token_sources(artifact: Artifact) -> dict[str, Artifact]:
    """The tokens artifacts by source: those of a mixture, or the artifact itself."""
    if artifact.kind != "mixture":
        return {SINGLE: artifact}
    return {name: artifact.parent(name) for name in sorted(artifact.record.parents)}


def open_stores(artifact: Artifact, split: str) -> dict[str, TokenStore]:
    """One split of every source of a tokens artifact or of a mixture; of a draft, what is there of it.

    The held-out split is always whole.
    """
    if isinstance(artifact, Draft):
        store = GrowingStore(artifact, split)
        if split == "heldout":
            store.grow_whole()
        return {SINGLE: store}
    return {name: TokenStore.open(source, split) for name, source in token_sources(artifact).items()}


def validation_stores(inputs: dict[str, Artifact]) -> dict[str, TokenStore]:
    """The held-out splits of the inputs `validation_NAME`, by NAME."""
    return {
        name.removeprefix(VALIDATION): TokenStore.open(inputs[name], "heldout")
        for name in sorted(inputs)
        if name.startswith(VALIDATION)
    }


def open_stream(artifact: Artifact, seed: int, num_positions: int, window_shards: int = 0) -> TokenStream:
    """The train split as a run of `num_positions` sequences sees it, in windows of shards unless they are 0.

    Raises SpecError where the run would see a source of a mixture more often than the mixture allows.
    """
    stores = open_stores(artifact, "train")
    if window_shards:
        return TokenStream(stores, IngestOrder(stores[SINGLE], window_shards, seed))
    sizes = [store.num_sequences for store in stores.values()]
    if artifact.kind != "mixture":
        return TokenStream(stores, MixedOrder([Order(sizes[0], seed)], Curriculum([], [[1]])))
    index = json.loads(artifact.location.read_bytes(INDEX_FILE))
    phases = [{**phase, "weights": [phase["weights"][name] for name in stores]} for phase in index["phases"]]
    ends = [_end(phase, index["sequence_length"], num_positions) for phase in phases[:-1]]
    orders = [Order(size, _source_seed(seed, name)) for name, size in zip(stores, sizes, strict=True)]
    order = MixedOrder(orders, Curriculum(ends, [phase["weights"] for phase in phases]))
    _require_epochs(order, stores, index["max_epochs"], num_positions)
    return TokenStream(stores, order)


def _end(phase: dict[str, Any], sequence_length: int, num_positions: int) -> int:
    """The position at which a phase of the index ends."""
    if phase["until_tokens"]:
        return int(phase["until_tokens"]) // sequence_length
    return int(Fraction(str(phase["until_fraction"])) * num_positions)


def _source_seed(seed: int, name: str) -> int:
    """Sources of one size must not be shuffled alike, nor differently because another came to them."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest(), "little")


def _require_epochs(order: MixedOrder, names: Iterable[str], limits: dict[str, float], num_positions: int) -> None:
    slack = MAX_DEVIATION * order.curriculum.num_phases  # exactly four epochs are four, rounded as they may be
    counts = order.curriculum.counts(num_positions)
    above = [
        f"{count / source.num_samples:.2f} epochs of {name!r} ({count:,} of {source.num_samples:,} sequences)"
        f", above {limits[name]:g}"
        for name, source, count in zip(names, order.orders, counts, strict=True)
        if count > limits[name] * source.num_samples + slack
    ]
    if above:
        raise SpecError(
            f"mixture.max_epochs: the run takes {'; '.join(above)}",
            "Lower the weight or pretrain.total_tokens, add data, or raise mixture.max_epochs_of "
            "(beyond four epochs, repeated data is worth ever less than new: Muennighoff et al. 2023).",
        )
