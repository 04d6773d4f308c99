"""Sequence parallelism: neighbouring workers share every sequence (DeepSpeed Ulysses, arXiv:2309.14509).

Each computes one part of the positions. Only attention needs them all: an all-to-all turns parts of all heads into
whole sequences of some heads, their mask keeps documents apart as ever, and a second all-to-all turns the result back.
To ZeRO every worker is data-parallel: parts' gradients add up as sequences' do. (DeepSpeed's own module for
transformers leaves the mask out, so that packed documents would see each other.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single  # the one that has a gradient
from torch.nn import functional as F

from cluster.core.errors import SpecError
from pipelines.stages.training.objectives.objectives import OBJECTIVES
from pipelines.stages.training.parallel.sequence_part import SequencePart

NAME = "ulysses"  # of the attention, in transformers' registry
FAMILIES = ("gpt2", "llama", "gpt_neox", "stablelm", "glm", "glm4")  # those that a test compares with undivided runs
FIELD = "scaling.sequence_parallel_size"


def share_sequences(model: Any, size: int) -> SequencePart:
    """Have `model` take whole sequences and tell the logits of this rank's part. Every rank must call it."""
    group, _ = dist.new_subgroups(size)  # neighbours, which Ray puts on one node where it can
    part = SequencePart(dist.get_rank(group), size)

    def divide(module: Any, inputs: tuple[Tensor], named: dict[str, Any]) -> tuple[tuple[Tensor], dict[str, Any]]:
        (tokens,) = inputs
        positions = named.get("position_ids")
        if positions is None:  # the model would begin to count where the part does
            positions = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
        return (part.of(tokens),), named | {"position_ids": part.of(positions)}

    from transformers import AttentionInterface

    # transformers hands a mask on as it is to an attention that it knows no mask function for.
    AttentionInterface.register(NAME, partial(attend, group=group))
    model.set_attn_implementation(NAME)
    model.register_forward_pre_hook(divide, with_kwargs=True)
    return part


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    group: dist.ProcessGroup,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: `query`, `key` and `value` are (batch, heads, chunk, head size).

    The mask, of whole sequences, is (batch, 1, length, length); None is causal. Where the workers do not divide the
    key/value heads, these are repeated until they do. Returns (batch, chunk, heads, head size).
    """
    workers: int = group.size()
    batch, _, chunk, head_size = query.shape
    key, value = (_repeated(heads, math.lcm(heads.size(1), workers)) for heads in (key, value))
    # Under autocast rotary positions leave fp32 behind, which attention would make half of again.
    parts = [heads.to(value.dtype).unflatten(1, (workers, -1)) for heads in (query, key, value)]
    sent = torch.cat(parts, dim=2).transpose(0, 1)  # (workers, batch, heads of each, chunk, head size)
    received = _exchange(sent, group).permute(1, 2, 0, 3, 4).flatten(2, 3)
    query, key, value = received.split([part.size(2) for part in parts], dim=1)
    key, value = (_repeated(heads, query.size(1)) for heads in (key, value))
    causal = attention_mask is None
    found = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, causal, scale=scaling)
    back = _exchange(found.unflatten(2, (workers, chunk)).permute(2, 0, 3, 1, 4), group)
    return back.permute(1, 2, 0, 3, 4).reshape(batch, chunk, -1, head_size), None


def _repeated(heads: Tensor, number: int) -> Tensor:
    """Heads (batch, heads, ...), each as often as makes them `number`."""
    return heads.repeat_interleave(number // heads.size(1), dim=1) if heads.size(1) < number else heads


def _exchange(pieces: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Piece i of the first dimension goes to rank i of the group, whose pieces arrive in the order of ranks."""
    return all_to_all_single(pieces.contiguous(), None, None, group)


def check_shared(size: int, objectives: Iterable[str], config: Any, lengths: dict[str, int]) -> None:
    """Raise SpecError where `size` workers cannot share the sequences of a model, a transformers configuration.

    `lengths` in tokens, by the name of what they are of.
    """
    if size == 1:
        return
    remedy = "Set it to 1."
    for objective in objectives:
        if not OBJECTIVES[objective].shares_sequences:
            raise SpecError(f"{FIELD}: only causal sequences can be shared (pretrain.objective: {objective})", remedy)
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise SpecError(
            f"{FIELD}: the family {config.model_type!r} does not share sequences",
            f"{remedy[:-1]}, or take a model of {known}.",
        )
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary in ("dynamic", "longrope"):
        raise SpecError(f"{FIELD}: `{rotary}` angles follow from the longest position, which a part hides", remedy)
    heads = config.num_attention_heads
    if heads % size:
        raise SpecError(f"{FIELD}: {size} does not divide the model's {heads} attention heads", _divisor(heads))
    for name, length in lengths.items():
        if length % size:
            raise SpecError(f"{FIELD}: {size} does not divide the {length} tokens of {name}", _divisor(length))


def _divisor(number: int) -> str:
    return f"Set it to a divisor of {number}."
