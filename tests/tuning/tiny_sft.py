"""A tiny model and conversations to tune it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec, PretrainedSpec, ScalingSpec, SftSpec
from tests.alignment.tiny_chat import write_conversations, write_model

SCALING = ScalingSpec(num_workers=2, log_every=1, checkpoint_every_seconds=0.3)
LENGTH = 256
TEMPLATES = {"none": "chatml", "lora": "alpaca", "qlora": "completion"}


def write_sources(folder: Path) -> Path:
    """An untrained model of no template, and 600 conversations, as others bring them."""
    write_conversations(folder / "functions.jsonl")
    write_model(folder / "model", folder / "functions.jsonl")
    return folder


def make_inputs(store: Store, sources: Path) -> dict[str, Artifact]:
    """The sources as artifacts, a fifth of the conversations held out."""
    spec = ConversationsSpec(source="file", path=str(sources / "functions.jsonl"), heldout_fraction=0.2)
    return {
        "model": build(PretrainedSpec(source=str(sources / "model")), {}, store=store, name="tiny"),
        "conversations": build(spec, {}, store=store, name="tiny"),
    }


def sft(adapter: Any, **changes: Any) -> SftSpec:
    """Three epochs of all weights, or of low-rank updates."""
    fields: dict[str, Any] = {
        "adapter": adapter,
        "template": TEMPLATES[adapter],
        "epochs": 3.0,
        "global_batch_size": 16,
        "sequence_length": LENGTH,
        "learning_rate": 1e-2,
        "schedule": "linear",
        "lora_rank": 8,
        "lora_alpha": 16,
    }
    if adapter == "none":
        fields |= {"optimizer": "muon", "learning_rate": 5e-3}
    return SftSpec(**(fields | changes))
