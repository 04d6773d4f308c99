"""Attention of each packed conversation by itself, as if it were alone in its row: nothing is masked, as nothing that
must not be seen is looked at.

A mask costs a row's length squared, in time and in memory, whatever it hides; conversations apart cost the sum of
their own squares. On a CPU a layer's attention over Alpaca's lengths is 2 to 10 times as fast (rows of 512 to 2,048
tokens). Where this cannot be (Bloom's slopes, workers that share sequences, a compiled model, which would be compiled
anew for each batch), the mask of pretraining keeps conversations apart (objectives/objective.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cluster.core.errors import SpecError
from pipelines.specs import ScalingSpec
from pipelines.stages.training.objectives.objective import apart_from, keeping_apart, restarting

NAME = "conversations_apart"  # of the attention, in transformers' registry
# Those that a test compares with conversations alone. A family of another kind of memory, such as Mamba's, would leak.
APART = (
    *("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "mistral", "mixtral", "phi", "phi3", "gemma", "glm", "glm4"),
    *("olmo2", "granite", "smollm3", "starcoder2", "qwen3_moe"),
)
MASKED = ("bloom", "stablelm")  # these hand no `lengths` on to their attention


def check_packing(config: Any) -> None:
    """Raise SpecError where a model, a transformers configuration, cannot have several conversations in a row."""
    if config.model_type not in (*APART, *MASKED):
        raise SpecError(
            f"sft.packing: nothing shows that the family {config.model_type!r} keeps packed conversations apart",
            f"Set it to false, or take a model of {', '.join((*APART, *MASKED))}.",
        )


def keep_apart(model: Any, scaling: ScalingSpec) -> None:
    """Have a model that is given `lengths` attend within conversations, where it can do without a mask."""
    if needs_no_mask(model.config, scaling):
        model.set_attn_implementation(NAME)


def can_be_apart(config: Any, scaling: ScalingSpec) -> bool:
    """Whether a model hands on to its attention what keeps the pieces of a row apart."""
    return config.model_type in APART and scaling.sequence_parallel_size == 1 and not scaling.compile


def needs_no_mask(config: Any, scaling: ScalingSpec) -> bool:
    """Whether a model can attend within conversations by the attention NAME, which transformers then knows."""
    if not can_be_apart(config, scaling):
        return False
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)  # it makes no mask for an attention that it knows no mask function for
    return True


def apart(model: Any, starts: Tensor) -> dict[str, Any]:
    """What a model takes to keep conversations apart that start at `starts`, (batch, length) bool, the first of each
    row among them."""
    if model.config._attn_implementation != NAME:
        return dict(keeping_apart(model, apart_from(starts)))
    begins = starts.flatten().nonzero().flatten()
    lengths = torch.diff(begins, append=begins.new_tensor([starts.numel()]))
    return {"position_ids": restarting(starts), "lengths": lengths.tolist()}


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    lengths: list[int],
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: `query` is (batch, heads, length, head size), `key` and `value` have a
    divisor of its heads. `lengths` of the pieces of all rows are theirs together. (batch, length, heads, head size)."""
    pieces = split(query, key, value, lengths)
    found = [by_itself(piece, dropout=dropout, scaling=scaling, sliding_window=sliding_window) for piece in pieces]
    return torch.cat(found).unflatten(0, (len(query), -1)), None


def split(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Iterator[tuple[Tensor, ...]]:
    """The pieces of all rows, in their order: query, key and value of each, (length, heads, head size)."""
    # Under autocast rotary positions leave fp32 behind, which each piece would make half of again.
    tokens = (heads.to(value.dtype).transpose(1, 2).flatten(0, 1) for heads in (query, key, value))
    return zip(*(one.split(lengths) for one in tokens), strict=True)


def by_itself(piece: Sequence[Tensor], *, dropout: float, scaling: float | None, sliding_window: int | None) -> Tensor:
    """Causal attention within a piece: query, key and value are (length, heads, head size); a shorter query is of the
    last tokens. Of the query's length is what comes out."""
    query, key, value = (part.transpose(0, 1).unsqueeze(0) for part in piece)
    mask = _mask(query.size(2), key.size(2), sliding_window, query.device)
    grouped = query.size(1) > key.size(1)
    attended = F.scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    )
    return attended.squeeze(0).transpose(0, 1)


def _mask(asked: int, length: int, window: int | None, device: torch.device) -> Tensor | None:
    """What the last `asked` tokens of a piece see (asked, length); None where all are asked and see all before. Of a
    model's sliding window a token sees itself and `window` - 1 before."""
    slides = window is not None and length > window
    if asked == length and not slides:
        return None
    index = torch.arange(length, device=device)
    ago = index[length - asked :].unsqueeze(1) - index
    return (ago >= 0) & (ago < window) if slides else ago >= 0
