"""The quantize stage: a model artifact with integer weights, and a report of what they save and what they cost.

The report goes through the engine that serves, one model after the other, so that it holds for the kernels that will
run. Without conversations to ask there is none, and the metrics say so.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import logging

from cluster.core.adapters import require_whole
from cluster.core.context import Context
from cluster.core.storage.location import Location
from pipelines.specs import QuantizeSpec
from pipelines.stages.compression.calibration import calibration_sequences
from pipelines.stages.compression.quality import compare
from pipelines.stages.compression.spec import CALIBRATION
from pipelines.stages.compression.weights import check, quantize

WEIGHTS = ".safetensors"


def build(ctx: Context[QuantizeSpec]) -> dict[str, Any]:
    """Write config.json, model.safetensors, the tokenizer and, where there are conversations, report.json.

    Raises InputError or SpecError, before any work, for a model that is quantized already or whose layers do not fit.
    """
    logging.disable_progress_bar()
    source = ctx.inputs["model"]
    require_whole(source)
    folder = source.local()
    check(folder, ctx.spec)
    sequences = calibration_sequences(folder, ctx.inputs[CALIBRATION], ctx.spec) if ctx.spec.calibrated else ()
    with ctx.scratch() as scratch:
        layers = quantize(folder, ctx.spec, scratch, lambda done, total: ctx.progress(done, total, "layers"), sequences)
        AutoTokenizer.from_pretrained(folder).save_pretrained(scratch)
        ctx.output.put(scratch)
    metrics: dict[str, Any] = {
        "scheme": ctx.spec.scheme,
        "layers": layers,
        "size_bytes": size_bytes(ctx.output),
        "original_size_bytes": size_bytes(source.location),
    }
    if "conversations" not in ctx.inputs:
        return metrics | {"report": "none: no conversations were given"}
    report = compare(source, ctx.output, ctx.inputs["conversations"], ctx.spec, ctx.scaling, ctx.progress)
    for name, location in (("original", source.location), ("quantized", ctx.output)):
        report[name]["size_bytes"] = size_bytes(location)
    ctx.output.write_bytes("report.json", (json.dumps(report, indent=2) + "\n").encode())
    return metrics | headline(report)


def size_bytes(place: Location) -> int:
    """The weights on disk."""
    return sum(place.size_bytes(name) for name in place.walk() if name.endswith(WEIGHTS))


def headline(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of the report that a list of artifacts shows."""
    return {
        **{name: report["quantized"][name] for name in ("perplexity", "resident_bytes")},
        **{f"original_{name}": report["original"][name] for name in ("perplexity", "resident_bytes")},
        **{name: report[name] for name in ("equal_tokens", "identical_completions", "conversations")},
    }
