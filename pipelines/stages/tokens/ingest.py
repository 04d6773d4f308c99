"""Streaming ingest: a token store that is still being written, and the order in which a run may begin to read it.

The order is a function of the seed and of the shards alone: whether a run began with the first window or found the
finished store, on one worker or on many, it sees the same sequences.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from typing import Any

import numpy as np

from cluster.core.storage.draft import Draft
from cluster.core.storage.location import Location
from pipelines.stages.tokens.order import Order, Positions, WindowedOrder
from pipelines.stages.tokens.reader import HEADER_FILE, OFFSET, SEGMENTS_FILE, SEQUENCES_FILE, Tokens, TokenStore
from pipelines.stages.tokens.shards import CACHE_BYTES


class GrowingStore(TokenStore):
    """One split of a draft: as many shards as are finished. Becomes the finished store as soon as there is one.

    Sequences are read by their number, as those of any store; what is told of documents has to wait for the end.
    """

    is_complete = False

    def __init__(self, draft: Draft, split: str, cache_bytes: int = CACHE_BYTES) -> None:
        """Waits for the store's header. Raises JobError where nobody is building it any longer."""
        self._draft, self._split, self._cache_bytes = draft, split, cache_bytes
        self._pieces: list[tuple[Tokens, Tokens]] = []  # of each shard: sequences, and segments within the split
        while True:
            had_builder = draft.has_builder()
            if self._finish():
                return
            if draft.location.exists(HEADER_FILE):
                break
            draft.pause(had_builder)
        header = json.loads(draft.location.read_bytes(HEADER_FILE))
        self.describe(header)
        self._num_shards: int = header["num_shards"][split]
        self.locate(draft.location / split, f"{draft.fingerprint[:16]}-draft", cache_bytes)
        self.hold([])
        self._look()

    def grow(self) -> None:
        """Wait for at least one more shard, or for the finished store. Raises JobError where neither will come."""
        before = len(self._shards)
        while not self.is_complete:
            had_builder = self._draft.has_builder()
            if self._finish():
                return
            self._look()
            if len(self._shards) > before:
                return
            self._draft.pause(had_builder)

    def grow_whole(self) -> None:
        """Wait for all shards of the split."""
        while not self.is_complete and len(self._shards) < self._num_shards:
            self.grow()

    def segments(self, index: int) -> Tokens:
        if self.is_complete or self.packing == "concatenate":
            return super().segments(index)
        number = bisect_right(self.sequence_starts.tolist(), index) - 1
        sequences, segments = self._pieces[number]
        first, stop = sequences[index - int(self.sequence_starts[number]) :][:2].tolist()
        return segments[first:stop]

    def _finish(self) -> bool:
        """Become the finished store if it is there."""
        artifact = self._draft.finished()
        if artifact is None:
            return False
        super().__init__(artifact.location, self._split, self._cache_bytes)
        self.is_complete = True
        return True

    def _look(self) -> None:
        """Take over the shards whose summaries have come, as far as none is missing between them."""
        shards = list(self._shards)
        base = int(self._starts[-1])
        while (summary := _summary(self._draft.location, f"{self._split}/shard-{len(shards):05d}")) is not None:
            shards.append(summary)
            if self.packing == "best_fit":
                self._pieces.append(_pieces(self._draft.location, f"{self._split}/shard-{len(shards) - 1:05d}", base))
            base += summary["num_tokens"]
        self.hold(shards)
        if self.folder.is_local:  # the folder is renamed when the store is finished: what is open stays open
            for number in range(len(shards)):
                self._shard(number)


def _summary(place: Location, shard: str) -> dict[str, Any] | None:
    if not place.exists(f"{shard}.json"):
        return None
    return dict(json.loads(place.read_bytes(f"{shard}.json")))


def _pieces(place: Location, shard: str, base: int) -> tuple[Tokens, Tokens]:
    """Where the sequences of a shard begin among its segments, and its segments among the tokens of the split."""
    ends = np.frombuffer(place.read_bytes(f"{shard}.{SEQUENCES_FILE}"), dtype=OFFSET)
    segments = np.frombuffer(place.read_bytes(f"{shard}.{SEGMENTS_FILE}"), dtype=OFFSET)
    return np.concatenate([[0], ends]).astype(np.int64), segments.reshape(-1, 2).astype(np.int64) + base


class IngestOrder:
    """The order of a run over one store that may still grow: windows of shards first, and later epochs as `Order`."""

    def __init__(self, store: TokenStore, window_shards: int, seed: int) -> None:
        self.store = store
        self.window_shards = window_shards
        self.seed = seed
        self._first_epoch = WindowedOrder([], window_shards, seed)  # as far as it was known when last looked at
        self._is_whole = False

    def samples(self, start: int, stop: int) -> tuple[Positions, Positions]:
        """The source, which is always 0, and the sequence at positions [start, stop); waits until they are known."""
        windows = self._windows(stop)
        end = min(stop, windows.num_known)
        early = windows.samples(min(start, end), end)
        late = np.empty(0, dtype=np.int64)
        if stop > end:
            late = Order(windows.num_known, self.seed).samples(max(start, end), stop)
        found = np.concatenate([early, late])
        return np.zeros_like(found), found

    def epochs(self, num_positions: int) -> list[float]:
        """How often so many positions go through the store; waits until its size is known."""
        return [num_positions / self._windows(None).num_known]

    def shares(self, num_positions: int) -> list[float]:
        """The weight of the only source."""
        return [1.0]

    def _windows(self, stop: int | None) -> WindowedOrder:
        """The first epoch, known at least up to position `stop`, or whole."""
        while not self._reaches(stop):
            self._is_whole = self.store.is_complete
            sizes = np.diff(self.store.sequence_starts).tolist()
            self._first_epoch = WindowedOrder(sizes, self.window_shards, self.seed, complete=self._is_whole)
            if not self._reaches(stop):
                assert isinstance(self.store, GrowingStore)
                self.store.grow()
        return self._first_epoch

    def _reaches(self, stop: int | None) -> bool:
        return self._is_whole or (stop is not None and stop <= self._first_epoch.num_known)
