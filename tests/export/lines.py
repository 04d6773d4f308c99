"""Lines of models without their training: tiny folders, put into a store as if each had been made of the one before."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from cluster.core.specs import spec as specs
from cluster.core.specs.spec import Spec
from cluster.core.storage.artifact import Artifact, Code, Parent, Record
from cluster.core.storage.store import Store
from pipelines.specs import CorpusSpec, PretrainSpec, TokenizerSpec, TokensSpec
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.tables import DOCUMENT_SCHEMA
from pipelines.stages.training.models.glm import BlankGlmConfig
from pipelines.stages.tuning.templates import CHATML, prepare
from tests.tuning.tokenizers import by_hand

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}


def commit(
    store: Store, spec: Spec, files: Mapping[str, bytes], metrics: dict[str, Any] | None = None, **inputs: Artifact
) -> Artifact:
    """An artifact of a spec that holds these files."""
    fingerprint = specs.fingerprint(spec, {name: artifact.fingerprint for name, artifact in inputs.items()})
    staging = store.staging(spec.kind, "line", fingerprint)
    for name, data in files.items():
        staging.write_bytes(name, data)
    record = Record(
        kind=spec.kind, name="line", fingerprint=fingerprint, revision=spec.revision, spec=specs.fields(spec),
        parents={name: Parent(a.kind, a.name, a.fingerprint) for name, a in inputs.items()}, scaling={},
        code=Code("c0ffee" * 7, ""), versions={"python": "3"}, started_at="2026-01-01T00:00:00+00:00",
        duration_seconds=0.0, metrics=metrics or {}, files={},
    )  # fmt: skip
    return store.commit(record, staging)


def corpus(store: Store, *licenses: str, **fields: Any) -> Artifact:
    """A corpus of one document under each licence."""
    rows = [Document(str(number), "a text", license=license).row() for number, license in enumerate(licenses)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA), sink)
    files = {"train/part-00000.parquet": sink.getvalue().to_pybytes()}
    return commit(store, CorpusSpec(**fields), files | {"report.json": b'{"flow": {"in": 1}, "licenses": {}}'})


def rows(*found: dict[str, Any]) -> dict[str, bytes]:
    """The files of conversations or pairs."""
    return {"train.jsonl": "".join(json.dumps(row) + "\n" for row in found).encode(), "heldout.jsonl": b""}


def folder(model: Any = None, chat: bool = False, **config: Any) -> dict[str, bytes]:
    """The files of an untrained model and its tokenizer."""
    tokenizer = by_hand()
    if chat:
        tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    if model is None:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), intermediate_size=32, **SIZES, **config))
    return saved(model, tokenizer)


def chatml_folder() -> dict[str, bytes]:
    """The same with the tokens of chatml, as a model that was tuned has them."""
    tokenizer = by_hand()
    prepare(tokenizer, "chatml")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), intermediate_size=32, **SIZES))
    return saved(model, tokenizer)


def saved(model: Any, tokenizer: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        return {path.name: path.read_bytes() for path in Path(place).iterdir()}


def bert() -> Any:
    return BertForMaskedLM(BertConfig(vocab_size=len(by_hand()), intermediate_size=32, **SIZES))


def scorer() -> Any:
    config = LlamaConfig(vocab_size=len(by_hand()), intermediate_size=32, num_labels=1, pad_token_id=0, **SIZES)
    return LlamaForSequenceClassification(config)


def glm_files() -> dict[str, bytes]:
    return folder() | {"config.json": BlankGlmConfig(vocab_size=300, **SIZES).to_json_string().encode()}


def pretrained_on(store: Store, texts: Artifact, files: dict[str, bytes] | None = None, **fields: Any) -> Artifact:
    """A model that was trained on a corpus from scratch."""
    tokenizer = commit(store, TokenizerSpec(), {}, corpus=texts)
    tokens = commit(store, TokensSpec(), {}, corpus=texts, tokenizer=tokenizer)
    spec = PretrainSpec(**({"model": "llama-1m"} | fields))
    return commit(store, spec, files or folder(), {"steps": 3, "tokens": 99}, tokens=tokens)
