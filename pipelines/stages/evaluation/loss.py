"""Negative log-likelihood of whole documents: every token scored exactly once, the first one conditioned on eos.

A document longer than the model's context is read through a sliding window: each window is full, and scores only
the tokens that the one before did not reach, so that each has at least `context - stride` tokens before it. Windows
are batched by length; the padding stands to the right, where causal attention never looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

BATCH_LOGITS = 2**24  # elements of one batch's logits: 64 MiB in float32, which caches and small machines still like


@dataclass(frozen=True)
class Window:
    """`tokens` (length n + 1) give n inputs and n labels; the first `skip` labels were scored before."""

    tokens: NDArray[np.int64]
    skip: int


def windows(document: NDArray[np.int64], eos_token_id: int, context: int, stride: int) -> Iterator[Window]:
    """Windows of at most `context` inputs that together score each token of `document` once."""
    sequence = np.concatenate([[eos_token_id], document])
    labels = len(document)
    scored = 0
    while scored < labels:
        end = min(scored + (stride if scored else context), labels)
        begin = max(0, end - context)
        yield Window(sequence[begin : end + 1], scored - begin)
        scored = end


def total_nll(
    model: torch.nn.Module,
    documents: Iterable[NDArray[np.int64]],
    eos_token_id: int,
    context: int,
    stride: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[float, int]:
    """Sum of -ln p over all tokens of all documents (nats), and their number. See `document_nll`."""
    documents = list(documents)
    nats = document_nll(model, documents, eos_token_id, context, stride, progress)
    return math.fsum(nats), sum(len(document) for document in documents)


@torch.inference_mode()
def document_nll(
    model: torch.nn.Module,
    documents: Sequence[NDArray[np.int64]],
    eos_token_id: int,
    context: int,
    stride: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Sum of -ln p over the tokens of each document (nats, accumulated in float64), shape (documents,).

    `progress` is told how many of all tokens are scored.
    """
    model.eval()
    device = next(model.parameters()).device
    queue = [
        (number, window)
        for number, document in enumerate(documents)
        for window in windows(document, eos_token_id, context, stride)
    ]
    queue.sort(key=lambda entry: len(entry[1].tokens))
    total = sum(len(w.tokens) - 1 - w.skip for _, w in queue)
    vocab_size = int(model.config.vocab_size)
    nats, done = np.zeros(len(documents)), 0
    for batch in _batches(queue, max(1, BATCH_LOGITS // vocab_size)):
        length = len(batch[-1][1].tokens)
        tokens = torch.full((len(batch), length), eos_token_id)
        counts = torch.zeros((len(batch), length - 1), dtype=torch.bool)
        for row, (_, window) in enumerate(batch):
            tokens[row, : len(window.tokens)] = torch.from_numpy(window.tokens)
            counts[row, window.skip : len(window.tokens) - 1] = True
        tokens = tokens.to(device)
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), tokens[:, 1:], reduction="none")
        sums = torch.where(counts, losses.cpu().double(), 0.0).sum(1)
        np.add.at(nats, [number for number, _ in batch], sums.numpy())
        done += int(counts.sum())
        progress(done, total)
    return nats


def _batches(queue: Sequence[tuple[int, Window]], batch_tokens: int) -> Iterator[Sequence[tuple[int, Window]]]:
    """Neighbours of the (length-sorted) queue, as many as keep the padded batch within `batch_tokens`."""
    begin = 0
    for end in range(1, len(queue) + 1):
        if end == len(queue) or (end + 1 - begin) * len(queue[end][1].tokens) > batch_tokens:
            yield queue[begin:end]
            begin = end
