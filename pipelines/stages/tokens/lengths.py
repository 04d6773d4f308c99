"""What a token store holds, told from its tokens: by source, by length of documents, by piece of the vocabulary."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.int64]

RARE = 100  # a piece seen less often in training is hardly learned (Land & Bartolo 2024, "Fishing for Magikarp")
SHOWN = 50


class Statistics:
    """Counts over documents. Those of shards add up to those of a split."""

    def __init__(self, vocab_size: int) -> None:
        self.pieces = np.zeros(vocab_size, dtype=np.int64)
        """How often each piece was seen, shape (vocab_size,)."""
        self.sources: dict[str, Counter[str]] = {}
        self.length_bins: Counter[int] = Counter()
        self.longest = 0

    def add(self, sources: pa.Array, ids: npt.NDArray[np.integer], lengths: Numbers, sizes: Numbers) -> None:
        """Documents: their sources, all their tokens, and for each its number of tokens and its size in bytes."""
        if not len(lengths):
            return
        self.pieces += np.bincount(ids, minlength=len(self.pieces))
        named = sources.dictionary_encode()
        codes = named.indices.to_numpy()
        for what, weights in (("documents", None), ("tokens", lengths), ("bytes", sizes)):
            for name, number in zip(named.dictionary.to_pylist(), np.bincount(codes, weights).tolist(), strict=True):
                self.sources.setdefault(name, Counter())[what] += int(number)
        bins, numbers = np.unique(np.frexp(lengths)[1], return_counts=True)
        self.length_bins.update(dict(zip(bins.tolist(), numbers.tolist(), strict=True)))
        self.longest = max(self.longest, int(lengths.max()))

    def summary(self) -> dict[str, Any]:
        """Everything but the pieces, as JSON takes it."""
        bins = {str(bits): self.length_bins[bits] for bits in sorted(self.length_bins)}
        return {"sources": self.sources, "length_bins": bins, "longest_tokens": self.longest}

    def merge(self, summary: dict[str, Any], pieces: npt.NDArray[np.int64]) -> None:
        """Add the counts of a shard, as its `summary` and `pieces` gave them."""
        self.pieces += pieces
        for name, counts in summary["sources"].items():
            self.sources.setdefault(name, Counter()).update(counts)
        self.length_bins.update({int(bits): number for bits, number in summary["length_bins"].items()})
        self.longest = max(self.longest, summary["longest_tokens"])

    def report(self) -> dict[str, Any]:
        """Bin b of `length_bins` holds documents of 2^(b-1) to 2^b - 1 tokens, their end-of-text token included."""
        ranked = sorted(self.sources.items(), key=lambda entry: (-entry[1]["tokens"], entry[0]))
        seen = int(np.count_nonzero(self.pieces))
        return self.summary() | {
            "documents": sum(counts["documents"] for counts in self.sources.values()),
            "tokens": int(self.pieces.sum()),
            "bytes": sum(counts["bytes"] for counts in self.sources.values()),
            "sources": {name: dict(counts) for name, counts in ranked[:SHOWN]},
            "vocab_size": len(self.pieces),
            "unseen_pieces": len(self.pieces) - seen,
            "rare_pieces": seen - int(np.count_nonzero(self.pieces >= RARE)),
        }
