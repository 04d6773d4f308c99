"""AdamW with 8-bit state (Dettmers et al., arXiv:2110.02861), element by element, hence on any shard.

The state is quantized in blocks of 256 elements with a scale each; which elements share a block depends on the shard,
so runs on other layouts agree only roughly.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from pipelines.stages.training.optimizers import adamw
from pipelines.stages.training.optimizers.rule import FP32_BYTES, Rule, Sharded
from pipelines.stages.training.spec import TrainingSpec

BLOCK_ELEMENTS = 256  # bitsandbytes' kernels have no other
CODES = ("exp_avg_codes", "exp_avg_sq_codes")  # uint8
SCALES = ("exp_avg_codes_scales", "exp_avg_sq_codes_scales")  # one for each block


class AdamW8bit(Rule):
    """For the hidden matrices; Dettmers et al. keep 32 bits for embeddings."""

    def groups(
        self, spec: TrainingSpec, hidden: Mapping[Parameter, float], rest: list[Parameter]
    ) -> list[dict[str, Any]]:
        options = adamw.options(spec) | {"rule": "adamw8bit"}
        return [{"params": list(hidden), "weight_decay": spec.weight_decay, **options}, adamw.plain(spec, rest)]

    def update(self, optimizer: Sharded, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """By bitsandbytes' kernel."""
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

    def state_bytes(self, parameter: Tensor) -> float:
        return (2 + 2 * FP32_BYTES / BLOCK_ELEMENTS) * parameter.numel()

    def by_element(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return spread_scales(state)

    def from_elements(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return gather_scales(state)


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


RULE = AdamW8bit()
