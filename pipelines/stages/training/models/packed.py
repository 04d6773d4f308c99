"""Models whose tensors have shapes and no storage, weights that are packed in 4 or 8 bits (bitsandbytes) among them.

They are built on PyTorch's `meta` device, which knows no CPU kernels; given fake tensors of a CPU, they compute with
the kernels that real ones would. bitsandbytes packs when weights are loaded; here they begin packed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SCALES_BLOCK = 256  # of scales that are packed themselves


def without_storage(model: nn.Module) -> None:
    """Give a model of the `meta` device fake tensors of a CPU. To be called under a FakeTensorMode."""
    found: dict[Tensor, Tensor] = {}
    for module in model.modules():
        numbers = module.__dict__.get("prompt_tokens", {})  # of virtual tokens, which peft keeps so
        for held in (module._parameters, module._buffers, numbers):
            for name, tensor in held.items():
                if tensor is not None:
                    if tensor not in found:  # tied weights stay tied
                        found[tensor] = _fake(tensor)
                    held[name] = found[tensor]


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a weight as it is stored, with the scales of a packed one."""
    scales = _tensors(getattr(tensor, "quant_state", None))
    if (rows := getattr(tensor, "SCB", None)) is not None:  # of 8 bits
        scales.append(rows)
    return tensor.nbytes + sum(found.nbytes for found in scales)


def unpacked_bytes(model: nn.Module) -> int:
    """Of the largest packed weight, as a pass makes it anew while it is in that layer; 0 where none is packed."""
    sizes = [0]
    for module in model.modules():
        weight = module._parameters.get("weight")
        if state := getattr(weight, "quant_state", None):
            sizes.append(state.shape.numel() * module.compute_dtype.itemsize)
        elif weight is not None and getattr(weight, "SCB", None) is not None:
            sizes.append(weight.numel() * torch.float32.itemsize)
    return max(sizes)


def _tensors(state: Any) -> list[Tensor]:
    """What bitsandbytes keeps beside 4-bit weights: scales and the values that the bits stand for; where the scales are
    packed too, the same of them, and their mean."""
    if state is None:
        return []
    return [state.absmax, state.code, *([state.offset, *_tensors(state.state2)] if state.nested else [])]


def _fake(tensor: Tensor) -> Tensor:
    if type(tensor).__name__ in ("Params4bit", "Int8Params"):
        return _packed(tensor) if type(tensor).__name__ == "Params4bit" else _packed_8bit(tensor)
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _packed(weight: Any) -> nn.Parameter:
    """Two weights a byte, and an fp32 scale for each block of them; or, as `compress_statistics`, a byte for each, and
    an fp32 scale for each block of these."""
    from bitsandbytes.functional import QuantState

    elements, block = weight.shape.numel(), weight.blocksize
    packed = nn.Parameter(torch.empty(-(-elements // 2), 1, dtype=torch.uint8), requires_grad=False)
    scales, code = torch.empty(-(-elements // block)), torch.empty(16)
    nested: dict[str, Any] = {}
    if weight.compress_statistics:
        outer = torch.empty(-(-scales.numel() // SCALES_BLOCK))
        scales = torch.empty(scales.shape, dtype=torch.uint8)
        state2 = QuantState(outer, code=torch.empty(256), blocksize=SCALES_BLOCK, dtype=torch.float32)
        nested = {"offset": torch.empty(()), "state2": state2}
    state = QuantState(scales, weight.shape, code, block, weight.quant_type, torch.float32, **nested)
    packed.quant_state = state  # where bitsandbytes' layers look for it
    return packed


def _packed_8bit(weight: Any) -> nn.Parameter:
    """A weight a byte, and an fp32 scale for each row."""
    packed = nn.Parameter(torch.empty(weight.shape, dtype=torch.int8), requires_grad=False)
    packed.CB, packed.SCB = packed.data, torch.empty(weight.shape[0])
    return packed
