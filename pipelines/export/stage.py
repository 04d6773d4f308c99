"""The export stage: a trained model as a Hugging Face folder that stands on its own.

Weights, tokenizer and generation settings go through transformers' own writers; the model card is written from the
lineage, so that it cannot say anything but what happened. The same inputs give the same bytes.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from cluster.artifact import Artifact
from cluster.context import Context
from cluster.specs import ExportSpec
from pipelines.export.card import model_card


def build(ctx: Context[ExportSpec]) -> dict[str, Any]:
    """Write config.json, model.safetensors, tokenizer, generation_config.json and README.md."""
    logging.disable_progress_bar()
    source = ctx.inputs["model"]
    folder = source.local()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, ctx.spec.dtype))
    with ctx.scratch() as scratch:
        model.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(folder).save_pretrained(scratch)
        ctx.output.put(scratch)
    parameters = sum(p.numel() for p in model.parameters())
    ctx.output.write_bytes("README.md", model_card(ctx.name, ctx.spec, ctx.inputs, parameters).encode())
    return {"parameters": parameters, "dtype": ctx.spec.dtype, **evaluated(ctx.inputs)}


def evaluated(inputs: dict[str, Artifact]) -> dict[str, Any]:
    """The headline of the evaluation, so that whoever sees the model sees it; empty where there was none."""
    if "evaluation" not in inputs:
        return {}
    return {name: inputs["evaluation"].metrics[name] for name in ("bits_per_byte", "perplexity")}
