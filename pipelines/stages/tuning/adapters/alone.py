"""The adapter stage: what was trained, in a folder that peft, vLLM and the Hub take, and what it belongs to."""

from __future__ import annotations

import json
from typing import Any

from cluster.core.adapters import BASE_FILE, CONFIG, FOLDER, weights_digest
from cluster.core.context import Context
from cluster.core.errors import InputError
from pipelines.specs import AdapterSpec
from pipelines.stages.export.adapter_card import adapter_card
from pipelines.stages.training.stage import TOKENIZER_FILES

CONFIGURATION = ("config.json", "generation_config.json")


def build(ctx: Context[AdapterSpec]) -> dict[str, Any]:
    """Write the adapter, base.json, configuration, tokenizer and README.md. Raises InputError where there is none."""
    tuned = ctx.inputs["model"]
    files = tuned.record.files
    if f"{FOLDER}/{CONFIG}" not in files:
        raise InputError(
            f"{tuned.record.ref} has no adapter: its own weights were trained", "Tune by `lora`, for example."
        )
    base = tuned.parent("model")
    for name in files:
        if name.startswith((f"{FOLDER}/", *TOKENIZER_FILES)) or name in CONFIGURATION:
            ctx.output.write_bytes(name.removeprefix(f"{FOLDER}/"), tuned.location.read_bytes(name))
    told = {"ref": base.record.ref, "fingerprint": base.fingerprint, "weights_sha256": weights_digest(base)}
    ctx.output.write_bytes(BASE_FILE, (json.dumps(told, indent=2) + "\n").encode())
    ctx.output.write_bytes("README.md", adapter_card(ctx.name, tuned, base).encode())
    return {
        "base": base.record.ref,
        "parameters": tuned.metrics.get("trained_parameters"),
        "size_bytes": sum(ctx.output.size_bytes(name) for name in ctx.output.names()),
    }
