"""An untrained chat model and conversations, as artifacts."""

from __future__ import annotations

from pathlib import Path

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec, PretrainedSpec
from tests.alignment.tiny_chat import write_conversations, write_model


def _source(store: Store) -> Path:
    folder = Path(store.root.url).parent / "tiny-source"
    if not folder.exists():
        folder.mkdir(parents=True)
        write_conversations(folder / "functions.jsonl", 40)
        write_model(folder / "model", folder / "functions.jsonl")
    return folder


def tiny_model(store: Store) -> Artifact:
    return build(PretrainedSpec(source=str(_source(store) / "model")), {}, store=store, name="tiny")


def tiny_conversations(store: Store) -> Artifact:
    path = str(_source(store) / "functions.jsonl")
    return build(ConversationsSpec(source="file", path=path, heldout_fraction=0.2), {}, store=store, name="tiny")
