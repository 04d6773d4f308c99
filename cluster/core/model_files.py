"""What a model's config.json says, read as plain JSON: neither torch nor weights, so that planning may ask as well."""

from __future__ import annotations

import json
from typing import Any

from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact

CONFIG_FILE = "config.json"
# What families of models call their longest sequence.
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len")

NO_WRITERS = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM")  # reward models, BERT


def read_config(model: Artifact) -> dict[str, Any]:
    """The configuration of a model artifact. Raises InputError where it has none."""
    if CONFIG_FILE not in model.record.files:
        raise InputError(f"{model.record.ref} is not a model: it has no {CONFIG_FILE}", "Give a model artifact.")
    return dict(json.loads(model.location.read_bytes(CONFIG_FILE)))


def context_tokens(config: dict[str, Any]) -> int | None:
    """The longest sequence that a model of this configuration takes; None where nothing bounds it (ALiBi)."""
    text = config.get("text_config") or config
    return next((int(text[name]) for name in POSITIONS if text.get(name)), None)


def fitting_tokens(config: dict[str, Any], wanted: int) -> int:
    """The longest sequence up to `wanted` tokens that a model of this configuration takes."""
    return min(wanted, context_tokens(config) or wanted)


def embedding_rows(config: dict[str, Any]) -> int:
    """How many token ids the model has a row for."""
    return int((config.get("text_config") or config)["vocab_size"])


def non_writer(config: dict[str, Any]) -> str:
    """The class that a configuration names where it writes no text from left to right; empty where it may."""
    return next((name for name in config.get("architectures") or () if name.endswith(NO_WRITERS)), "")
