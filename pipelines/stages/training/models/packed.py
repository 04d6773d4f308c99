"""Models whose tensors have shapes and no storage, weights that are packed in 4 bits (bitsandbytes) among them.

They are built on PyTorch's `meta` device, which knows no CPU kernels; given fake tensors of a CPU, they compute with
the kernels that real ones would. bitsandbytes packs when weights are loaded; here they begin packed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def without_storage(model: nn.Module) -> None:
    """Give a model of the `meta` device fake tensors of a CPU. To be called under a FakeTensorMode."""
    found: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    if tensor not in found:  # tied weights stay tied
                        found[tensor] = _fake(tensor)
                    held[name] = found[tensor]


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a weight as it is stored, with the scales of a packed one."""
    state = getattr(tensor, "quant_state", None)
    return tensor.nbytes + (state.absmax.nbytes + state.code.nbytes if state else 0)


def unpacked_bytes(model: nn.Module) -> int:
    """Of the largest packed weight, as a pass makes it anew while it is in that layer; 0 where none is packed."""
    sizes = [0]
    for module in model.modules():
        if state := getattr(module._parameters.get("weight"), "quant_state", None):
            sizes.append(state.shape.numel() * module.compute_dtype.itemsize)
    return max(sizes)


def _fake(tensor: Tensor) -> Tensor:
    if type(tensor).__name__ == "Params4bit":
        return _packed(tensor)
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _packed(weight: Any) -> nn.Parameter:
    """Two weights a byte, and an fp32 scale for each block of them."""
    from bitsandbytes.functional import QuantState

    elements, block = weight.shape.numel(), weight.blocksize
    packed = nn.Parameter(torch.empty(-(-elements // 2), 1, dtype=torch.uint8), requires_grad=False)
    scales, code = torch.empty(-(-elements // block)), torch.empty(16)
    state = QuantState(scales, weight.shape, code, block, weight.quant_type, torch.float32)
    packed.quant_state = state  # where bitsandbytes' layers look for it
    return packed
