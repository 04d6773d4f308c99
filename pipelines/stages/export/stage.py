"""The export stage: a trained model as a Hugging Face folder that stands on its own.

Weights, tokenizer and generation settings go through transformers' own writers, by the class of the model; a quantized
one is copied as it is, because no writer knows its numbers better. The model card is written from the lineage, so that
it cannot say anything but what happened. The same inputs give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from cluster.core.adapters import require_whole
from cluster.core.context import Context
from cluster.core.storage.artifact import Artifact
from pipelines.specs import ExportSpec
from pipelines.stages.export.card import model_card
from pipelines.stages.export.kinds import Kind

COPIED = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
NOT_THE_MODELS = ("artifact.json", "report.json")


def build(ctx: Context[ExportSpec]) -> dict[str, Any]:
    """Write config.json, model.safetensors, tokenizer, generation_config.json and README.md.

    Raises InputError for a model of a family that only Trunkline knows.
    """
    logging.disable_progress_bar()
    source = ctx.inputs["model"]
    require_whole(source)
    kind = Kind.of(source)
    folder = source.local()
    auto = getattr(transformers, kind.auto_class)
    dtype: str = ctx.spec.dtype
    if kind.quantized is None:
        model = auto.from_pretrained(folder, dtype=dtype)
        dtype = str(model.dtype).removeprefix("torch.")
        with ctx.scratch() as scratch:
            model.save_pretrained(scratch)
            AutoTokenizer.from_pretrained(folder).save_pretrained(scratch)
            ctx.output.put(scratch)
    else:
        config = AutoConfig.from_pretrained(folder)
        dtype = str(config.dtype).removeprefix("torch.")
        with torch.device("meta"):
            model = auto.from_config(config)
        copy(folder, ctx)
    parameters = sum(p.numel() for p in model.parameters())
    card = model_card(ctx.name, kind, ctx.inputs, parameters, dtype)
    ctx.output.write_bytes("README.md", card.encode())
    return {"parameters": parameters, "dtype": dtype, **evaluated(ctx.inputs)}


def copy(folder: Path, ctx: Context[ExportSpec]) -> None:
    """The files of a model as they are."""
    for path in sorted(path for pattern in COPIED for path in folder.glob(pattern)):
        if path.name not in NOT_THE_MODELS:
            ctx.output.write_bytes(path.name, path.read_bytes())


def evaluated(inputs: dict[str, Artifact]) -> dict[str, Any]:
    """The headline of the evaluation, so that whoever sees the model sees it; empty where there was none."""
    if "evaluation" not in inputs:
        return {}
    return {name: inputs["evaluation"].metrics[name] for name in ("bits_per_byte", "perplexity")}
