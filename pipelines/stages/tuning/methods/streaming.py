"""A model with low-rank updates merged, written tensor by tensor: memory holds the updates and one weight at a time.

peft merges each layer itself; only what it is given is short: a model without values, whose layers get their weights
one after the other. The file's bytes are those that transformers would write of the whole merged model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model.safetensors"
BYTES = 4  # of a number in float32


def skeleton(model: Any, folder: Path) -> Any | None:
    """A model as `folder` has it, in shapes alone, that ends answers as `model` does.

    None where the weights are not one file whose names and shapes are the model's own (several files, families whose
    weights transformers renames as it loads them, rows that were added).
    """
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig

    if not (folder / FILE).is_file():
        return None
    config = AutoConfig.from_pretrained(folder, dtype=torch.float32)
    config.eos_token_id = model.config.eos_token_id
    with torch.device("meta"):
        bare = type(model)(config)
    bare.generation_config = copy.deepcopy(model.generation_config)
    tied = set(getattr(bare, "all_tied_weights_keys", {}))
    wanted = {name: list(tensor.shape) for name, tensor in bare.state_dict().items() if name not in tied}
    with safe_open(folder / FILE, "pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return bare if found == wanted else None


def write_merged(whole: Any, folder: Path, into: Path) -> None:
    """Write a peft model without values, but for its updates, merged into the weights of `folder`."""
    plain = whole.get_base_model()
    layers = {f"{_own(name)}.weight": layer for name, layer in plain.named_modules() if hasattr(layer, "merge")}
    plain.save_pretrained(into, state_dict={})  # configurations; the weights follow
    with (into / FILE).open("wb") as file:
        shapes = dict(_shapes(folder))
        file.write(header(shapes))
        for name in shapes:
            tensor = _read(folder, name)
            if name in layers:
                tensor = _merged(layers[name], tensor.clone())
            file.write(tensor.contiguous().numpy().data)
            del tensor  # before the next one is read: the embedding is much of a small model


def header(shapes: dict[str, list[int]]) -> bytes:
    """How a safetensors file of float32 begins: the length of some JSON, and that with the place of every tensor."""
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + BYTES * _numel(shape)
        told[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes in the order of such a file."""
    from safetensors import safe_open

    with safe_open(folder / FILE, "pt") as file:
        for name in sorted(file.keys()):
            yield name, file.get_slice(name).get_shape()


def _read(folder: Path, name: str) -> Tensor:
    """One tensor in float32, in the file's own pages where it is that there. The file is opened for it alone: what was
    read of it would stay in memory."""
    import torch
    from safetensors import safe_open

    with safe_open(folder / FILE, "pt") as file:
        return file.get_tensor(name).to(torch.float32)


def _merged(layer: Any, weight: Tensor) -> Tensor:
    """A layer's weight with its updates, as peft merges them."""
    import torch

    base = layer.get_base_layer()
    bare, base.weight = base.weight, torch.nn.Parameter(weight, requires_grad=False)
    layer.merge()
    merged: Tensor = base.weight.data
    base.weight = bare
    return merged


def _own(name: str) -> str:
    """What the model calls a layer that peft has wrapped."""
    return name.removeprefix("base_model.model.")


def _numel(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
