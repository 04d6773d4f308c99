"""Prompts and completions as tensors: micro-batches to learn from, and figures of tokens out of them and into them.

In a micro-batch, tokens are (rows, length + 1), prompt and completion, padded on the right with 0; all else is
(rows, length) and stands where its token is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.generation.engine import Completion


def overlong(lengths: Tensor, max_tokens: int, within: int) -> Tensor:
    """The penalty (n,) of completions of `lengths` (n,): 0 up to `within` tokens below the maximum, -1 at it."""
    return -((lengths - (max_tokens - within)) / within).clamp(0, 1)


def token_weights(spec: RlhfSpec, completions: list[Completion]) -> Tensor:
    """What a token of each completion weighs (n,), so that the sum over tokens by all tokens is the mean asked for."""
    lengths = torch.tensor([float(len(c.logprobs)) for c in completions])
    if spec.mean_over == "tokens":
        return torch.ones_like(lengths)
    own = lengths if spec.mean_over == "answers" else torch.full_like(lengths, spec.max_completion_tokens)
    return lengths.sum() / (len(completions) * own)


def repetition(tokens: Sequence[int], ngram: int = 4) -> float:
    """The share of the n-grams of an answer that came before in it; 0 of one that is too short to have any."""
    grams = [tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def micro_batches(
    prompts: list[Prompt], completions: list[Completion], size: int
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Which rows, and tokens, learn (bool) and behaviour (nats), the log-probabilities that the engine told."""
    for start in range(0, len(prompts), size):
        own = slice(start, start + size)
        rows = list(zip(prompts[own], completions[own], strict=True))
        length = max(len(p.tokens) + len(c.tokens) for p, c in rows)
        tokens = torch.zeros((len(rows), length), dtype=torch.int64)
        learn = torch.zeros((len(rows), length), dtype=torch.bool)
        behaviour = torch.zeros((len(rows), length))
        for row, (prompt, completion) in enumerate(rows):
            begin, end = len(prompt.tokens), len(prompt.tokens) + len(completion.tokens)
            tokens[row, :end] = torch.tensor(prompt.tokens + completion.tokens)
            learn[row, begin:end] = True if completion.mine is None else torch.tensor(completion.mine, dtype=torch.bool)
            behaviour[row, learn[row]] = torch.tensor(completion.logprobs)
        yield own, {"tokens": tokens, "learn": learn[:, 1:], "behaviour": behaviour[:, 1:]}


def rows_of(figures: Tensor, learn: Tensor) -> list[list[float]]:
    """The figures (rows, length) of each row's learned tokens."""
    return [row[drawn].tolist() for row, drawn in zip(figures, learn, strict=True)]


def placed(rows: Sequence[list[float]], learn: Tensor) -> Tensor:
    """Figures of each row's learned tokens (rows, length) fp32, 0 elsewhere."""
    found = torch.zeros(learn.shape)
    found[learn] = torch.tensor([figure for row in rows for figure in row])
    return found


def padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """Rows of figures (n, length of the longest) float64, padded on the right with 0."""
    found = torch.zeros((len(rows), max(map(len, rows), default=0)), dtype=torch.float64)
    for number, row in enumerate(rows):
        found[number, : len(row)] = torch.tensor(row, dtype=torch.float64)
    return found


def placed_steps(steps: Sequence[Sequence[tuple[int, float]]], learn: Tensor) -> Tensor:
    """Rewards of steps at the tokens that end them (rows, length) float64; several of one token are added up."""
    found = torch.zeros(learn.shape, dtype=torch.float64)
    for row, given in enumerate(steps):
        for token, value in given:
            found[row, token] += value
    return found
