"""Integer weights, written in the compressed-tensors format, vLLM's own.

The linear layers are rounded, block by block, and on wish the embedding; not an output layer of its own: small models
lose most there. GPT-2's `Conv1D`, which is a linear layer that lies on its side, is turned for the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.base import compress_module
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from cluster.core.errors import InputError, SpecError
from pipelines.specs import QuantizeSpec
from pipelines.stages.compression.grid import STORED
from pipelines.stages.compression.nf4 import write_nf4
from pipelines.stages.compression.rounding import Nearest
from pipelines.stages.compression.rounding.rounding import Rounded
from pipelines.stages.compression.statistics import walk

TILE = 32  # vLLM's 4-bit kernel for CPUs wants layers whose sides are multiples of this
# What vLLM makes one layer of, with one scheme.
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
EMBEDDINGS = QuantizationArgs(num_bits=8, strategy="channel")  # a scale for each row

Progress = Callable[[int, int], None]


def check(folder: Path, spec: QuantizeSpec) -> None:
    """Raise InputError or SpecError for a model that cannot be quantized so; reads no weights."""
    config = AutoConfig.from_pretrained(folder)
    if found := getattr(config, "quantization_config", None):
        method = found.get("quant_method", "") if isinstance(found, dict) else found.quant_method
        raise InputError(f"{folder} is quantized already ({method})", "Give the model that it was made from.")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        unturned(model)
    layers = linear_layers(model, spec.keep)
    if not layers:
        raise InputError(
            f"{folder}: {config.model_type} has no linear layer in its blocks that is to be rounded",
            "Give a model of the Llama family or GPT-2, and keep less.",
        )
    _check_ends("keep", spec.keep, linear_layers(model))
    _check_ends("eight_bits", spec.eight_bits, layers)
    if spec.balancing is not None:
        spec.balancing.check(config.model_type)
    for name, layer in layers.items():
        if spec.scheme != "int4" or _ends(name, spec.eight_bits):
            continue
        if layer.in_features % spec.group_size:
            raise SpecError(
                f"quantized.group_size: {spec.group_size} does not divide the {layer.in_features} inputs of {name}",
                "Set a smaller one, or `scheme: int8`.",
            )
        if layer.out_features % TILE:
            raise SpecError(
                f"quantized.scheme: int4 wants multiples of {TILE}, and {name} has {layer.out_features} outputs",
                "Set `scheme: int8`.",
            )


def _check_ends(field: str, ends: tuple[str, ...], layers: dict[str, nn.Linear]) -> None:
    """Raise SpecError for ends that no layer's name has, and for layers that vLLM makes one of, of which some have."""
    if missing := [end for end in ends if not any(name.endswith(end) for name in layers)]:
        raise SpecError(f"quantized.{field}: no linear layer ends in {missing[0]!r}", f"One is {next(iter(layers))}.")
    for name in [name for name in layers if _ends(name, ends)]:
        before, _, last = name.rpartition(".")
        for other in next((fused for fused in FUSED if last in fused), ()):
            if not _ends(f"{before}.{other}", ends):
                raise SpecError(
                    f"quantized.{field}: vLLM makes one layer of {name} and {before}.{other}, and only one is named",
                    "Name both, or none.",
                )


def _ends(name: str, ends: tuple[str, ...]) -> bool:
    return bool(ends) and name.endswith(ends)


def quantize(folder: Path, spec: QuantizeSpec, into: Path, progress: Progress, sequences: Sequence[Tensor] = ()) -> int:
    """Write the quantized model of `folder` (config and weights) to `into`; returns the number of layers rounded.

    `sequences`: token ids to calibrate on. Holds the whole model in memory in float32.
    """
    if spec.scheme == "nf4":
        return write_nf4(folder, into)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    turned = unturned(model)
    layers = linear_layers(model, spec.keep)
    for name, layer in layers.items():
        if not layer.weight.isfinite().all():
            raise InputError(f"{folder}: {name} holds numbers that are not finite", "Train the model again.")
    ends = [f".*{re.escape(end)}$" for end in spec.eight_bits]
    groups = {"all": QuantizationScheme(targets=_targets(turned, ends), **arguments(spec.scheme, spec))}
    if ends:
        patterns = [f"re:{end}" for end in ends]
        groups["eight_bits"] = QuantizationScheme(targets=patterns, **arguments("int8", spec))
    grids = {name: groups["eight_bits" if _ends(name, spec.eight_bits) else "all"].weights for name in layers}
    rounded: dict[str, Rounded] = {}
    for name, found in _rounded(model, layers, spec, grids, sequences):
        rounded[name] = found
        layers[name].weight.data = found.weight  # what comes after it is to make up for its error
        progress(len(rounded), len(layers))
    if not rounded:
        raise InputError(f"{folder}: every layer has outliers above quantized.spare_above", "Raise it.")
    number = len(rounded)
    if spec.embeddings == "int8":
        embedding, head = (_named(model, get()) for get in (model.get_input_embeddings, model.get_output_embeddings))
        tied = [head] if model.config.tie_word_embeddings else []
        # Not packed where it is tied: transformers gives the output layer what is called `weight`, but no scales.
        form = CompressionFormat.naive_quantized if tied else CompressionFormat.pack_quantized
        own = QuantizationScheme(targets=["Embedding", *tied], weights=EMBEDDINGS, format=form)
        groups = {"embeddings": own, **groups}
        weight = model.get_submodule(embedding).weight
        found = Nearest().round(weight.data, EMBEDDINGS, None)
        weight.data = found.weight
        rounded |= dict.fromkeys([embedding, *tied], found)
    apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=_ignored(model, rounded)))
    for name, found in rounded.items():
        module = model.get_submodule(name)
        module.weight_scale.data = found.scale.clone()  # of two tensors that share their numbers one is stored
        if not module.quantization_scheme.weights.symmetric:
            module.weight_zero_point.data = found.zero_point.to(module.weight_zero_point.dtype)
        compress_module(module)
    compressor = ModelCompressor.from_pretrained_model(model)
    model.to(STORED)  # casts floating point only; sets the dtype of config.json, which vLLM and transformers go by
    model.save_pretrained(into, state_dict=_stored(model, turned))
    compressor.update_config(str(into))
    return number


def _rounded(
    model: Any,
    layers: dict[str, nn.Linear],
    spec: QuantizeSpec,
    grids: dict[str, QuantizationArgs],
    sequences: Sequence[Tensor],
) -> Iterator[tuple[str, Rounded]]:
    """The layers' new weights, in their order; each is asked for when those before it are in place. What is spared
    has none."""
    if not spec.calibrated:
        for name, layer in layers.items():
            yield name, spec.rounding.round(layer.weight.data, grids[name], None)
        return
    for block in walk(model, layers, sequences):
        if spec.balancing is not None:
            spec.balancing.balance(block, model.config.model_type, grids)
        for name, layer in block.layers.items():
            if spec.spare_above and block.statistics[name].outliers > spec.spare_above:
                continue
            yield name, spec.rounding.round(layer.weight.data, grids[name], block.statistics[name])


def arguments(scheme: str, spec: QuantizeSpec) -> dict[str, QuantizationArgs]:
    """How weights and activations are quantized."""
    if scheme == "int4":
        symmetric = not spec.zero_points
        return {
            "weights": QuantizationArgs(num_bits=4, strategy="group", group_size=spec.group_size, symmetric=symmetric)
        }
    return {
        "weights": QuantizationArgs(num_bits=8, strategy="channel"),
        "input_activations": QuantizationArgs(num_bits=8, strategy="token", dynamic=True),
    }


def unturned(model: nn.Module) -> list[str]:
    """Put a linear layer, with the same weights, in the place of every `Conv1D`; their names."""
    turned = [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
    for name in turned:
        parent, _, last = name.rpartition(".")
        old = model.get_submodule(name)
        new = nn.Linear(*old.weight.shape, device=old.weight.device, dtype=old.weight.dtype)
        if not old.weight.is_meta:
            new.weight.data, new.bias.data = old.weight.data.T.contiguous(), old.bias.data
        setattr(model.get_submodule(parent), last, new)
    return turned


def linear_layers(model: Any, keep: tuple[str, ...] = ()) -> dict[str, nn.Linear]:
    """All linear layers by name, but the output layer and those whose names end in one of `keep`."""
    head = model.get_output_embeddings()
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    return {name: layer for name, layer in found.items() if not (keep and name.endswith(keep))}


def turned_back(weights: dict[str, Tensor], turned: list[str]) -> dict[str, Tensor]:
    """Weights by name, those of a `Conv1D` on their side again, as who reads them expects of GPT-2."""
    names = {f"{name}.weight" for name in turned}
    return {name: weight.T.contiguous() if name in names else weight for name, weight in weights.items()}


def _targets(turned: list[str], others: list[str]) -> list[str]:
    """What the scheme is for: all layers but those of the patterns `others`. Of `Conv1D` names rather than a class:
    then transformers, which has no integers for those, refuses the model, where by the class it would take the integers
    for weights."""
    if not turned:
        return ["Linear"]  # a pattern goes before a class
    apart = f"(?!{'|'.join(others)})" if others else ""
    return [f"re:{apart}.*{last}$" for last in sorted({name.rpartition(".")[2] for name in turned})]


def _named(model: Any, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)


def _ignored(model: Any, rounded: dict[str, Rounded]) -> list[str]:
    """The names of what stays as it is, of the classes that the groups are for."""
    kinds = (nn.Linear, nn.Embedding)
    return [name for name, m in model.named_modules() if isinstance(m, kinds) and name not in rounded]


def _stored(model: Any, turned: list[str]) -> dict[str, Tensor]:
    """The weights as the files hold them, an output layer that is the embedding but once."""
    found = turned_back(model.state_dict(), turned)
    if model.config.tie_word_embeddings:
        head = model.get_output_embeddings()
        found.pop(next(f"{name}.weight" for name, module in model.named_modules() if module is head), None)
    return found
