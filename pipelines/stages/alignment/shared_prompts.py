"""Answers to one prompt, computed with one copy of it (Prefix Grouper, arXiv:2506.05433).

The rows of a micro-batch become one text without padding: of rows beside each other that begin alike the prompt, once,
then their answers. What is computed token by token is computed of a prompt once; attention lets each answer see the
prompt and itself; positions go on behind the prompt in each. Values and gradients are those of the rows by themselves,
but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipelines.specs import ScalingSpec
from pipelines.stages.tuning.attention import by_itself, can_be_apart, split

NAME = "answers_apart"  # of the attention, in transformers' registry
Text = tuple[int, list[int]]  # lengths of a prompt and of its answers, in the order in which they stand


@dataclass(frozen=True)
class Shared:
    """A micro-batch as one text: inputs and positions (1, length); `told_from` (learned,) are the places of what each
    learned token is told from, in the order of the rows."""

    inputs: Tensor
    positions: Tensor
    texts: list[Text]
    told_from: Tensor


class Asked(NamedTuple):
    """What a model is given of a micro-batch: inputs (rows, length) and what goes with them; `told_from` (learned,) are
    places in the rows, one behind the other."""

    inputs: Tensor
    others: dict[str, Any]
    told_from: Tensor


def asked(model: Any, tokens: Tensor, learn: Tensor) -> Asked:
    """Those of tokens[:, 1:] (batch, length + 1) to learn (batch, length) as a model is asked for them."""
    text = shared(model, tokens, learn)
    if text is None:
        return Asked(tokens[:, :-1], {}, learn.flatten().nonzero().flatten())
    return Asked(text.inputs, {"position_ids": text.positions, "texts": text.texts}, text.told_from)


def share_prompts(model: Any, scaling: ScalingSpec) -> None:
    """Have a model compute prompts once, where its family hands on to its attention what is given to it, and on CPUs:
    on GPUs, whose kernels take all rows at once, it has not been tried."""
    if scaling.gpus_per_worker or not can_be_apart(model.config, scaling):
        return
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)


def shared(model: Any, tokens: Tensor, learn: Tensor) -> Shared | None:
    """Rows of tokens (rows, length + 1), of which (rows, length) are to learn, as one text; None where the model does
    not take it, or nothing is learned."""
    if model.config._attn_implementation != NAME or not bool(learn.any()):
        return None
    text: list[Tensor] = []
    positions: list[Tensor] = []
    told_from: list[Tensor] = []
    texts: list[Text] = []
    prompt, start, length = torch.empty(0, dtype=tokens.dtype), 0, 0

    def append(row: Tensor, begin: int, end: int) -> None:
        nonlocal length
        text.append(row[begin:end])
        positions.append(torch.arange(begin, end))
        length += end - begin

    for row, learned in zip(tokens, learn, strict=True):
        places = learned.nonzero().flatten()
        if not len(places):
            continue
        first, end = int(places[0]), int(places[-1]) + 1
        if not texts or not torch.equal(row[: first + 1], prompt):
            prompt, start = row[: first + 1], length
            append(row, 0, first + 1)
            texts.append((first + 1, []))
        moved = places + length - (first + 1)
        told_from.append(torch.where(places == first, start + first, moved))
        append(row, first + 1, end)
        texts[-1][1].append(end - (first + 1))
    inputs, at = torch.cat(text).unsqueeze(0), torch.cat(positions).unsqueeze(0)
    return Shared(inputs, at, texts, torch.cat(told_from))


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    texts: Sequence[Text] | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: `query` is (batch, heads, length, head size), `key` and `value` have a
    divisor of its heads. Without `texts` each row is one. (batch, length, heads, head size)."""
    apart = partial(by_itself, dropout=dropout, scaling=scaling, sliding_window=sliding_window)
    texts = [(query.size(2), [])] * len(query) if texts is None else texts
    pieces = split(query, key, value, [length for prompt, answers in texts for length in (prompt, *answers)])
    found = []
    for _, answers in texts:
        prompt = next(pieces)
        found.append(apart(prompt))
        for _ in answers:
            asking, *seen = next(pieces)
            found.append(apart((asking, *(torch.cat(both) for both in zip(prompt[1:], seen, strict=True)))))
    return torch.cat(found).unflatten(0, (len(query), -1)), None
