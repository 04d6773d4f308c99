"""The pruned stage: a model artifact with fewer weights, or with many that are zero; training makes up for the loss.

`PretrainSpec` or `SftSpec` trains it further; with `keep_zeros` those that are zero stay so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from cluster.core.adapters import require_whole
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.integers import QUANTIZATION
from cluster.core.model_files import read_config
from pipelines.specs import PruneSpec
from pipelines.stages.compression.calibration import calibration_sequences
from pipelines.stages.compression.spec import CALIBRATION
from pipelines.stages.compression.statistics import Block, blocks, walk
from pipelines.stages.compression.weights import linear_layers, turned_back, unturned


def build(ctx: Context[PruneSpec]) -> dict[str, Any]:
    """Write config.json, model.safetensors and the tokenizer. Returns how many parameters there are and were, and the
    share of the linear layers' weights that are zero.

    Raises InputError or SpecError, before any work, for a model that cannot be pruned so.
    """
    logging.disable_progress_bar()
    source, method = ctx.inputs["model"], ctx.spec.method
    require_whole(source)
    if QUANTIZATION in read_config(source):
        raise InputError(f"{source.record.ref} is quantized already", "Prune the model that it was made from.")
    folder = source.local()
    method.check(AutoConfig.from_pretrained(folder))
    sequences = calibration_sequences(folder, ctx.inputs[CALIBRATION], ctx.spec) if method.calibrated else ()
    with ctx.scratch() as scratch:
        figures = prune(folder, ctx.spec, scratch, sequences, ctx.progress)
        AutoTokenizer.from_pretrained(folder).save_pretrained(scratch)
        ctx.output.put(scratch)
    return {"method": str(method.__struct_config__.tag), **figures}


def prune(folder: Path, spec: PruneSpec, into: Path, sequences: Sequence[Tensor], progress: Any) -> dict[str, Any]:
    """Write the pruned model of `folder` to `into`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = sum(weight.numel() for weight in model.parameters())
    turned = unturned(model)
    layers = linear_layers(model)
    number = model.config.get_text_config().num_hidden_layers
    for done, block in enumerate(_blocks(model, layers, spec, sequences), 1):
        spec.method.prune(block, model.config)
        progress(done, number, "blocks")
    spec.method.configure(model.config)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
    weights = sum(layer.weight.numel() for layer in layers.values())
    model.save_pretrained(into, state_dict=turned_back(model.state_dict(), turned))
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "original_parameters": before,
        "zeros": round(zeros / weights, 4),
    }


def _blocks(model: Any, layers: dict[str, Any], spec: PruneSpec, sequences: Sequence[Tensor]) -> Iterator[Block]:
    if spec.method.calibrated:
        yield from walk(model, layers, sequences)
        return
    names = {module: f"{name}." for name, module in model.named_modules()}
    for module in blocks(model):
        prefix = names[module]
        own = {name: layer for name, layer in layers.items() if name.startswith(prefix)}
        yield Block(module, prefix, own, {})
