"""AdamW (Loshchilov and Hutter, arXiv:1711.05101), and AdamW with 8-bit state (Dettmers et al., arXiv:2110.02861).

Both work element by element, hence on any shard. The 8-bit state is quantized in blocks of 256 elements with a scale
each; which elements share a block depends on the shard, so runs on other layouts agree only roughly.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from pipelines.stages.training.optimizers.sharded import Sharded

BLOCK_ELEMENTS = 256  # bitsandbytes' kernels have no other
CODES = ("exp_avg_codes", "exp_avg_sq_codes")  # uint8
SCALES = ("exp_avg_codes_scales", "exp_avg_sq_codes_scales")  # one for each block


def update(optimizer: Sharded, parameters: list[Tensor], group: dict[str, Any]) -> None:
    """One step of AdamW, fused."""
    for parameter in parameters:
        if not optimizer.state[parameter]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    states = [optimizer.state[p] for p in parameters]
    adamw(
        parameters,
        [p.grad for p in parameters if p.grad is not None],
        [s["exp_avg"] for s in states],
        [s["exp_avg_sq"] for s in states],
        [],
        [s["step"] for s in states],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def update_8bit(optimizer: Sharded, parameters: list[Tensor], group: dict[str, Any]) -> None:
    """One step of AdamW with bitsandbytes' block-wise 8-bit moments."""
    from bitsandbytes.functional import optimizer_update_8bit_blockwise

    for parameter in parameters:
        state = optimizer.state[parameter]
        if not state:
            blocks = -(-parameter.numel() // BLOCK_ELEMENTS)
            state["step"] = torch.zeros((), dtype=torch.float32)
            for codes in CODES:
                state[codes] = torch.zeros_like(parameter, dtype=torch.uint8)
                state[f"{codes}_scales"] = torch.zeros(blocks, device=parameter.device)
        state["step"] += 1
        first, second = CODES
        optimizer_update_8bit_blockwise(
            "adam",
            parameter.grad,
            parameter,
            state[first],
            state[second],
            group["betas"][0],
            group["betas"][1],
            0.0,  # only other optimizers of bitsandbytes' have a third beta, and alpha
            0.0,
            group["eps"],
            int(state["step"]),
            group["lr"],
            _codebook(True, parameter.device),
            _codebook(False, parameter.device),
            state[f"{first}_scales"],
            state[f"{second}_scales"],
            group["weight_decay"],
        )


def spread_scales(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State by element: where there are scales of blocks, each element has its block's."""
    found = dict(state)
    for codes, scales in zip(CODES, SCALES, strict=True):
        if scales in state:
            like = state[codes]
            found[scales] = state[scales].repeat_interleave(BLOCK_ELEMENTS)[: like.numel()].view_as(like)
    return found


def gather_scales(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reverse, to the bit where the blocks are those of before; elsewhere moments are quantized anew.

    An element of scale 0 is 0 whatever its code: so are those that only pad a shard.
    """
    found = dict(state)
    for (codes, scales), signed in zip(zip(CODES, SCALES, strict=True), (True, False), strict=True):
        if scales not in state:
            continue
        own, book = state[scales].view(-1), _codebook(signed, state[scales].device)
        padded = torch.nn.functional.pad(own, (0, -len(own) % BLOCK_ELEMENTS))
        found[scales] = padded.view(-1, BLOCK_ELEMENTS).amax(1)
        zero = book.abs().argmin().to(torch.uint8)
        found[codes] = torch.where(state[scales] == 0, zero, state[codes])
        if not bool(((own == 0) | (own == found[scales].repeat_interleave(BLOCK_ELEMENTS)[: len(own)])).all()):
            from bitsandbytes.functional import quantize_blockwise

            moments = book[found[codes].long()] * state[scales]
            quantized, made = quantize_blockwise(moments, code=book, blocksize=BLOCK_ELEMENTS)
            found[codes], found[scales] = quantized.view_as(state[codes]), made.absmax
    return found


@functools.cache
def _codebook(signed: bool, device: torch.device) -> Tensor:
    """The 256 values that a code stands for, times its block's scale."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map(signed=signed).to(device)
