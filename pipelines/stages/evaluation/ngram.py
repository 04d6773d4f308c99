"""Byte n-gram baseline: interpolated Witten-Bell, vectorised with numpy.

For a context h of k bytes (k = 0 .. order - 1; h' is h without its oldest byte; P_{-1} = 1/256):

    P_k(w | h) = (c(h w) + T(h) P_{k-1}(w | h')) / (c(h) + T(h))    if c(h) > 0, else P_{k-1}(w | h')

c counts in the training text, T(h) is the number of distinct bytes seen after h (Witten & Bell 1991, method C;
interpolated as in Chen & Goodman 1999, section 2.3). A context and its byte are one 64-bit code, hence order <= 8.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 8


def ngram_bits_per_byte(train: Iterable[bytes], heldout: Iterable[bytes], order: int = 5) -> float:
    """Bits per byte of the documents `heldout` under a model of the documents `train`.

    Contexts never cross a document boundary: the byte at offset i is predicted from its min(i, order - 1)
    predecessors, in training and in scoring alike. Raises ValueError for an order outside 1..8 or an empty side.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order {order}: must be from 1 to {MAX_ORDER}")
    seen, seen_offset = _join(train)
    text, text_offset = _join(heldout)
    if not len(seen) or not len(text):
        raise ValueError("neither the training nor the held-out text may be empty")
    probability = np.full(len(text), 1.0 / 256.0)
    for k in range(order):
        grams, counts = np.unique(_codes(seen, k)[seen_offset >= k], return_counts=True)
        if not len(grams):
            break
        # The codes are sorted with the context in the high bytes: the grams of one context are neighbours.
        context = grams >> np.uint64(8)
        first = np.flatnonzero(np.r_[True, context[1:] != context[:-1]])
        context_count = np.add.reduceat(counts, first)
        context_types = np.diff(np.r_[first, len(grams)])
        rows = np.flatnonzero(text_offset >= k)
        query, inverse = np.unique(_codes(text, k)[rows], return_inverse=True)
        at_gram, has_gram = _find(grams, query)
        at_context, has_context = _find(context[first], query >> np.uint64(8))
        gram_n = np.where(has_gram, counts[at_gram], 0)[inverse]
        n = np.where(has_context, context_count[at_context], 0)[inverse]
        types = np.where(has_context, context_types[at_context], 0)[inverse]
        lower = probability[rows]
        probability[rows] = np.where(n > 0, (gram_n + types * lower) / np.maximum(n + types, 1), lower)
    return float(-np.log2(probability).sum() / len(text))


def _join(documents: Iterable[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """All bytes one after another, and each byte's offset in its own document."""
    kept = [document for document in documents if document]
    lengths = np.array([len(document) for document in kept], dtype=np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    data = np.frombuffer(b"".join(kept), dtype=np.uint8).astype(np.uint64)
    return data, np.arange(len(data), dtype=np.int64) - starts


def _codes(data: NDArray[np.uint64], k: int) -> NDArray[np.uint64]:
    """The k + 1 bytes that end at each position, as one number, the newest lowest (meaningless below offset k)."""
    code = data.copy()
    for j in range(1, k + 1):
        code[j:] += data[:-j] << np.uint64(8 * j)
    return code


def _find(keys: NDArray[np.uint64], query: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Index of each query in the sorted `keys`, and whether it is there at all."""
    at = np.minimum(np.searchsorted(keys, query), len(keys) - 1)
    return at, keys[at] == query
