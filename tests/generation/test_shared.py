"""Weights in shared memory: what is read are the same bits, of every kind of number, where the sender has put them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from pipelines.stages.generation.shared import read, share

TENSORS = {
    "fp32": torch.randn(3, 5),
    "bf16": torch.randn(2, 3, 4).to(torch.bfloat16),
    "fp16": torch.randn(7).half(),
    "int8": torch.arange(6, dtype=torch.int8).view(2, 3),
    "turned": torch.randn(4, 6).t(),
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    "one": torch.tensor(3.5),
    "none": torch.empty(0, 4),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_read_as_it_was(name: str) -> None:
    """As Ray sends it: by pickle's protocol 5, its bytes beside the stream."""
    sent: list[Any] = []
    stream = pickle.dumps(share({name: TENSORS[name]}), protocol=5, buffer_callback=sent.append)
    assert len(stream) < 1000 and sum(len(buffer.raw()) for buffer in sent) == TENSORS[name].nbytes
    frozen = [buffer.raw().toreadonly() for buffer in sent]  # as the object store gives it
    (found,) = read(pickle.loads(stream, buffers=frozen)).values()
    assert found.dtype == TENSORS[name].dtype and torch.equal(found, TENSORS[name].detach())


def test_nothing_is_copied() -> None:
    tensor = torch.zeros(4)
    (shared,) = share({"w": tensor}).values()
    (again,) = read({"w": shared}).values()
    tensor[2] = 7
    assert again.tolist() == [0, 0, 7, 0]
