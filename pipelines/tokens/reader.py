"""Reading a token store: flat shards, memory-mapped, seen as one long array of tokens."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.errors import InputError

Tokens = npt.NDArray[np.int64]

INDEX_FILE = "index.json"
DOCUMENTS_FILE = "documents.idx"


class TokenStore:
    """One split of a token store. Every document is followed by one end-of-text token."""

    def __init__(self, folder: Path, split: str) -> None:
        index = json.loads((folder / INDEX_FILE).read_text())
        if split not in index["splits"]:
            raise InputError(f"{folder} has no split {split!r}", f"It has {', '.join(index['splits'])}.")
        self.folder = folder / split
        self.dtype = np.dtype(index["dtype"]).newbyteorder("<")
        self.vocab_size: int = index["vocab_size"]
        self.eos_token_id: int = index["eos_token_id"]
        self.sequence_length: int = index["sequence_length"]
        self.tokenizer_fingerprint: str = index["tokenizer_fingerprint"]
        self.num_tokens: int = index["splits"][split]["num_tokens"]
        self.num_bytes: int = index["splits"][split]["num_bytes"]
        self._shards = index["splits"][split]["shards"]
        self._starts = np.cumsum([0] + [shard["num_tokens"] for shard in self._shards])

    def require_tokenizer(self, fingerprint: str) -> None:
        """Raise InputError unless the store was encoded by the tokenizer artifact of this fingerprint."""
        if fingerprint != self.tokenizer_fingerprint:
            raise InputError(
                f"{self.folder} was encoded by tokenizer {self.tokenizer_fingerprint[:12]}, not {fingerprint[:12]}",
                "Use that tokenizer, or build the tokens anew with yours.",
            )

    @property
    def num_sequences(self) -> int:
        """Training samples in one epoch; the tokens of a last, incomplete one are not used."""
        return max(0, (self.num_tokens - 1) // self.sequence_length)

    @functools.cached_property
    def documents(self) -> Tokens:
        """Offsets of the first token of each document and, last, of the end; shape (documents + 1,)."""
        return np.fromfile(self.folder / DOCUMENTS_FILE, dtype="<i8")

    @functools.cache  # noqa: B019 - as many mappings as shards, for the life of the reader
    def _shard(self, number: int) -> npt.NDArray[np.integer]:
        path = self.folder / self._shards[number]["file"]
        expected = self._shards[number]["num_tokens"] * self.dtype.itemsize
        if not path.is_file() or path.stat().st_size != expected:
            raise InputError(f"{path}: missing or not of {expected} bytes", "Run `ctl artifacts verify`.")
        return np.memmap(path, dtype=self.dtype, mode="r")

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

    def sequence(self, index: int) -> Tokens:
        """Training sample `index`: tokens [i * L, (i + 1) * L], shape (L + 1,). Inputs are [:-1], labels [1:]."""
        start = index * self.sequence_length
        return self.tokens(start, start + self.sequence_length + 1)
