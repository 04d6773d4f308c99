"""A tiny model and conversations to tune it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import (
    ConversationsSpec,
    Freeze,
    Full,
    Lora,
    PretrainedSpec,
    PromptTuning,
    PTuningV2,
    QLora,
    ScalingSpec,
    SftSpec,
)
from tests.alignment.tiny_chat import write_conversations, write_model

SCALING = ScalingSpec(num_workers=2, log_every=1, checkpoint_every_seconds=0.3)
LENGTH = 256
METHODS = {
    "full": Full(),
    "freeze": Freeze(layers=1, also=("head",)),
    "lora": Lora(rank=8, alpha=16),
    "dora": Lora(rank=8, alpha=16, dora=True, rslora=True, lora_plus_ratio=4.0),
    "pissa": Lora(rank=8, alpha=16, init="pissa"),
    "whole": Lora(rank=8, alpha=16, also=("embeddings", "head")),  # so that new tokens are learned
    "qlora": QLora(rank=8, alpha=16),
    "int8": QLora(rank=8, alpha=16, weights="int8"),
    "prefix": PTuningV2(pre_seq_len=8),
    "projected": PTuningV2(pre_seq_len=8, projection=True),
    "prompt": PromptTuning(tokens=8),
}
TEMPLATES = {"full": "chatml", "whole": "chatml", "qlora": "completion"}  # the others: alpaca


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


def sft(method: str, **changes: Any) -> SftSpec:
    """Three epochs by a method."""
    fields: dict[str, Any] = {
        "method": METHODS[method],
        "template": TEMPLATES.get(method, "alpaca"),
        "epochs": 3.0,
        "global_batch_size": 16,
        "sequence_length": LENGTH,
        "learning_rate": 1e-2,
        "schedule": "linear",
    }
    if not METHODS[method].merges:
        fields["learning_rate"] = 0.3
    if method == "full":
        fields |= {"optimizer": "muon", "learning_rate": 5e-3}
    return SftSpec(**(fields | changes))
