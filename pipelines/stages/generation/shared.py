"""Tensors on the CPU as Ray's object store takes them: one copy in shared memory, which a machine's processes read.

Of a tensor itself Ray pickles the bytes, and each reader makes a copy of them again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shared:
    """A tensor: its bytes as a numpy array, which Ray leaves where they are; its numbers' name, such as `bfloat16`; its
    shape."""

    bytes: Any
    dtype: str
    shape: tuple[int, ...]


def share(tensors: Mapping[str, Tensor]) -> dict[str, Shared]:
    """Tensors in a form to be put there. Nothing is copied yet."""
    return {
        name: Shared(
            tensor.detach().contiguous().view(-1).view(torch.uint8).numpy(),
            str(tensor.dtype).removeprefix("torch."),
            tuple(tensor.shape),
        )
        for name, tensor in tensors.items()
    }


def read(shared: Mapping[str, Shared | Tensor]) -> dict[str, Tensor]:
    """The tensors, in place: nobody may write to them. One that travelled as such is what it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {
            name: torch.from_numpy(each.bytes).view(getattr(torch, each.dtype)).view(each.shape)
            if isinstance(each, Shared)
            else each
            for name, each in shared.items()
        }
