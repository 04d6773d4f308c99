"""A model as an ONNX graph, which onnxruntime and others run: token ids and an attention mask in, logits out.

It scores and ranks texts, and generates without a cache of keys and values: each token reads the whole text again.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.core.errors import NotReadyError

OPSET = 18
LARGEST_BYTES = 2**31  # of a file of protobuf; larger weights stand beside the graph
PACKAGES = ("onnx", "onnxscript")


class Logits(nn.Module):
    """A causal language model with nothing but its logits (batch, places, vocabulary)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.as_tensor(self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits)


def write_onnx(model: Any, into: Path) -> None:
    """Write a model of transformers in float32 to the file `into`, for batches and lengths of any size.

    Raises NotReadyError where what writes the format is not installed.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise NotReadyError(
            f"to write ONNX, {' and '.join(missing)} must be installed", f"pip install {' '.join(PACKAGES)}"
        )
    model.set_attn_implementation("eager")
    ids = torch.tensor([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("places", max=model.config.max_position_embeddings)}
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    torch.onnx.export(
        Logits(model).eval(),
        (ids, torch.ones_like(ids)),
        str(into),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": free, "attention_mask": free},
        opset_version=OPSET,
        external_data=size > LARGEST_BYTES // 2,
        dynamo=True,
        verbose=False,
    )
