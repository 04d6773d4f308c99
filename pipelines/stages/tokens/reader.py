"""Reading a token store: flat shards, seen as one long array of tokens, and the sequences packed from it.

On a local disk the shards are memory-mapped; from an object store only the blocks that are asked for are fetched.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import cache_root
from pipelines.stages.tokens.shards import CACHE_BYTES, Array, ArrayFolder, BlockCache

Tokens = npt.NDArray[np.int64]

INDEX_FILE = "index.json"
HEADER_FILE = "header.json"  # what can be said while shards are still being written; gone afterwards
DOCUMENTS_FILE = "documents.idx"  # int64: the first token of each document, and the end
SEQUENCES_FILE = "sequences.idx"  # int64: the first segment of each sequence, and the end (best_fit only)
SEGMENTS_FILE = "segments.idx"  # int64: start and stop of each segment in the tokens (best_fit only)
OFFSET = np.dtype("<i8")
PADDING = -100  # what the loss passes over


class TokenStore:
    """One split of a token store. Every document is followed by one end-of-text token. Safe for threads.

    `sequence_starts`, shape (shards + 1,): the first sequence that ends in each shard, and how many there are.
    """

    is_complete = True  # a draft's is not

    def __init__(self, folder: str | os.PathLike[str] | Location, split: str, cache_bytes: int = CACHE_BYTES) -> None:
        """`folder` is a path, an fsspec URL or a Location; `cache_bytes` bounds the local disk that a remote one takes.

        Raises InputError for a split that it has not.
        """
        place = folder if isinstance(folder, Location) else Location(folder)
        data = place.read_bytes(INDEX_FILE)
        index = json.loads(data)
        if split not in index["splits"]:
            raise InputError(f"{place.url} has no split {split!r}", f"It has {', '.join(index['splits'])}.")
        about = index["splits"][split]
        self.describe(index)
        self.num_bytes: int = about["num_bytes"]
        self.num_documents: int = about["num_documents"]
        self._num_segments: int = about.get("num_segments", 0)
        # The index holds the digest of every shard, so that its own stands for all that the store holds.
        self.locate(place / split, hashlib.sha256(data).hexdigest()[:16], cache_bytes)
        self.hold(about["shards"])

    def describe(self, header: dict[str, Any]) -> None:
        """Take over what all splits have in common."""
        self.dtype = np.dtype(header["dtype"]).newbyteorder("<")
        self.vocab_size: int = header["vocab_size"]
        self.eos_token_id: int = header["eos_token_id"]
        self.sequence_length: int = header["sequence_length"]
        self.tokenizer_fingerprint: str = header["tokenizer_fingerprint"]
        self.packing: str = header["packing"]

    def locate(self, folder: Location, identity: str, cache_bytes: int) -> None:
        """Take over where the split lies; `identity` stands for its content."""
        self.folder = folder
        cache = BlockCache(cache_root() / "blocks", cache_bytes)
        self._files = ArrayFolder(folder, f"{identity}/{folder.url.rpartition('/')[2]}", cache)

    def hold(self, shards: list[dict[str, Any]]) -> None:
        """Take over which shards there are."""
        self._shards = shards
        self._starts = np.cumsum([0] + [shard["num_tokens"] for shard in shards])
        if self.packing == "concatenate":  # sequences go on from one shard into the next
            self.sequence_starts = np.maximum(0, (self._starts - 1) // self.sequence_length)
        else:
            self.sequence_starts = np.cumsum([0] + [shard["num_sequences"] for shard in shards])

    @property
    def num_tokens(self) -> int:
        return int(self._starts[-1])

    @property
    def num_sequences(self) -> int:
        """Training samples in one epoch. `concatenate` does not use the tokens of a last, incomplete one."""
        return int(self.sequence_starts[-1])

    @classmethod
    def open(cls, place: Artifact | Location | str | Path, split: str, cache_bytes: int = CACHE_BYTES) -> TokenStore:
        """The store of an artifact or a place, wherever it lies; nothing of it is copied before it is read."""
        return cls(place.location if isinstance(place, Artifact) else place, split, cache_bytes)

    def require_tokenizer(self, fingerprint: str) -> None:
        """Raise InputError unless the store was encoded by the tokenizer artifact of this fingerprint."""
        if fingerprint != self.tokenizer_fingerprint:
            raise InputError(
                f"{self.folder.url} was encoded by tokenizer {self.tokenizer_fingerprint[:12]}, not {fingerprint[:12]}",
                "Use that tokenizer, or build the tokens anew with yours.",
            )

    @functools.cached_property
    def documents(self) -> Tokens:
        """Offsets of the first token of each document and, last, of the end; shape (documents + 1,). All in memory."""
        return np.asarray(self._documents[:], dtype=np.int64)

    @functools.cached_property
    def _documents(self) -> Array:
        return self._files.open(DOCUMENTS_FILE, OFFSET, self.num_documents + 1)

    @functools.cached_property
    def _sequences(self) -> Array:
        return self._files.open(SEQUENCES_FILE, OFFSET, self.num_sequences + 1)

    @functools.cached_property
    def _segments(self) -> Array:
        return self._files.open(SEGMENTS_FILE, OFFSET, 2 * self._num_segments)

    @functools.cache  # noqa: B019 - as many mappings as shards, for the life of the reader
    def _shard(self, number: int) -> Array:
        return self._files.open(self._shards[number]["file"], self.dtype, self._shards[number]["num_tokens"])

    def tokens(self, start: int, stop: int) -> Tokens:
        """The tokens [start, stop) as int64, shape (stop - start,); a range may span shards."""
        pieces = []
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            first, end = int(self._starts[number]), min(stop, int(self._starts[number + 1]))
            if end > start:
                pieces.append(self._shard(number)[start - first : end - first])
            start = max(start, end)
            number += 1
        return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, dtype=np.int64)

    def segments(self, index: int) -> Tokens:
        """The ranges [start, stop) of the store's tokens that a sequence is made of; shape (segments, 2).

        `concatenate`: one range of sequence_length + 1, whose last token is the first of the next sequence. `best_fit`:
        documents or pieces of them, which belong to no other sequence, of sequence_length + 1 tokens at most.
        """
        if self.packing == "concatenate":
            start = index * self.sequence_length
            return np.array([[start, start + self.sequence_length + 1]], dtype=np.int64)
        first, stop = self._sequences[index : index + 2].tolist()
        return np.asarray(self._segments[2 * first : 2 * stop], dtype=np.int64).reshape(-1, 2)

    def sequence(self, index: int) -> Tokens:
        """Training sample `index`, shape (sequence_length + 1,): inputs are [:-1], labels [1:].

        Behind `documents_of(index)[-1]` it is `PADDING`, which is no label.
        """
        pieces = [self.tokens(start, stop) for start, stop in self.segments(index).tolist()]
        padding = self.sequence_length + 1 - sum(map(len, pieces))
        return np.concatenate([*pieces, np.full(padding, PADDING, dtype=np.int64)])

    def num_labels(self, index: int) -> int:
        """How many tokens of a sequence are to be predicted: all but its first and the padding."""
        if self.packing == "concatenate":
            return self.sequence_length
        segments = self.segments(index)
        return int((segments[:, 1] - segments[:, 0]).sum()) - 1

    def documents_of(self, index: int) -> Tokens:
        """Where documents, or pieces of them, begin in a sequence, and where its tokens end; shape (pieces + 1,).

        It begins with 0; the last is sequence_length + 1 unless the sequence is padded.
        """
        segments = self.segments(index)
        if self.packing == "best_fit":
            return np.concatenate([[0], np.cumsum(segments[:, 1] - segments[:, 0])])
        start, stop = segments[0].tolist()
        begins = _Items(self._documents)
        inside = self._documents[bisect_right(begins, start) : bisect_left(begins, stop)]
        return np.concatenate([[start], inside, [stop]]) - start

    def covered(self, sequences: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """The ranges [start, stop) of the store's tokens that these sequences hold, ascending and disjoint."""
        ranges = sorted((start, stop) for index in sequences.tolist() for start, stop in self.segments(index).tolist())
        yield from _joined(ranges)


class _Items:
    """An array's items as Python integers, for bisection without reading the whole."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, number: int) -> int:
        return int(self._array[number : number + 1][0])


def _joined(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted ranges, those that touch or overlap made one."""
    start = stop = -1
    for begin, end in ranges:
        if begin > stop:
            if stop >= 0:
                yield start, stop
            start = begin
        stop = max(stop, end)
    if stop >= 0:
        yield start, stop
