"""Integer weights by rounding to nearest, written in the compressed-tensors format, vLLM's own.

The linear layers are rounded, not the embeddings and not the head: small models lose most there. It needs no data;
methods that calibrate on some, such as GPTQ, lose less at 4 bits. At 4 bits each scale is the one of nine, from the
widest value's down, that loses least; at 8 bits the widest value's is as good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.base import compress_module
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.core.errors import InputError, SpecError
from pipelines.specs import QuantizeSpec

STORED = torch.bfloat16  # scales and what is not quantized: vLLM's integer kernels for CPUs compute in it
TILE = 32  # vLLM's 4-bit kernel for CPUs wants layers whose sides are multiples of this
SHRINKAGES = {8: [1.0], 4: [1 - 0.05 * i for i in range(9)]}  # by bits: of the range that a scale spans
ERROR_NORM = 2.4  # between the squared error, which clips too much, and the largest; as in llm-compressor

Progress = Callable[[int, int], None]


def check(folder: Path, spec: QuantizeSpec) -> None:
    """Raise InputError or SpecError for a model that cannot be quantized so; reads no weights."""
    config = AutoConfig.from_pretrained(folder)
    if found := getattr(config, "quantization_config", None):
        method = found.get("quant_method", "") if isinstance(found, dict) else found.quant_method
        raise InputError(f"{folder} is quantized already ({method})", "Give the model that it was made from.")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = list(linear_layers(model))
    if not layers:
        raise InputError(
            f"{folder}: {config.model_type} has no nn.Linear in its blocks, and the format knows no other matrices",
            "Give a model of the Llama family.",
        )
    for name, layer in layers if spec.scheme == "int4" else []:
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


def quantize(folder: Path, spec: QuantizeSpec, into: Path, progress: Progress) -> int:
    """Write the quantized model of `folder` (config and weights) to `into`; returns the number of layers.

    Holds the whole model in memory in float32.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    scheme = QuantizationScheme(targets=["Linear"], **arguments(spec))
    apply_quantization_config(model, QuantizationConfig(config_groups={"all": scheme}, ignore=heads(model)))
    layers = list(linear_layers(model))
    for number, (name, layer) in enumerate(layers, 1):
        if not layer.weight.isfinite().all():
            raise InputError(f"{folder}: {name} holds numbers that are not finite", "Train the model again.")
        layer.weight_scale.data = best_scale(layer.weight.data, scheme.weights)
        compress_module(layer)
        progress(number, len(layers))
    compressor = ModelCompressor.from_pretrained_model(model)
    model.to(STORED)  # casts floating point only; sets the dtype of config.json, which vLLM and transformers go by
    model.save_pretrained(into)
    compressor.update_config(str(into))
    return len(layers)


def arguments(spec: QuantizeSpec) -> dict[str, QuantizationArgs]:
    """How weights and activations are quantized."""
    if spec.scheme == "int4":
        return {"weights": QuantizationArgs(num_bits=4, strategy="group", group_size=spec.group_size)}
    return {
        "weights": QuantizationArgs(num_bits=8, strategy="channel"),
        "input_activations": QuantizationArgs(num_bits=8, strategy="token", dynamic=True),
    }


def linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers to quantize, by name."""
    kept = heads(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name not in kept:
            yield name, module


def heads(model: Any) -> list[str]:
    """The names of the output layer."""
    return [name for name, module in model.named_modules() if module is model.get_output_embeddings()]


def best_scale(weight: Tensor, arguments: QuantizationArgs) -> Tensor:
    """The scale of each group of weights (of each row, without groups): of those tried the one that loses least."""
    groups = weight.unflatten(-1, (-1, arguments.group_size or weight.shape[-1]))
    low, high = groups.amin(-1), groups.amax(-1)
    best, least = torch.empty_like(low), torch.full_like(low, torch.inf)
    for shrinkage in SHRINKAGES[arguments.num_bits]:
        scale, zero = calculate_qparams(low * shrinkage, high * shrinkage, arguments)
        scale = scale.to(STORED).float()  # before rounding, so that it fits the weights
        lost = (fake_quantize(weight, scale, zero, arguments) - weight).abs().pow(ERROR_NORM)
        lost = lost.unflatten(-1, groups.shape[-2:]).sum(-1)
        best, least = torch.where(lost < least, scale, best), torch.minimum(lost, least)
    return best
