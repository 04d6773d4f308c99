"""Perplexity of any model on any token set: what it counts, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import CorpusSpec, PerplexitySpec, PretrainedSpec, TokenizerSpec, TokensSpec
from pipelines.stages.evaluation.paired import read
from tests.made import make

pytestmark = pytest.mark.heavy

TEXTS = ["aé" * 20, "b", "cde" * 9]
EOS, VOCAB = 0, 300
TOKENIZER = {"tokenizer.json": b'{"model": "bytes"}'}


def make_tokens(store: Store) -> Artifact:
    """A token store in which a byte is a token, and its corpus."""
    documents = [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + 1 for text in TEXTS]
    data = np.concatenate([np.append(document, EOS) for document in documents]).astype("<u2").tobytes()
    offsets = np.cumsum([0, *(len(document) + 1 for document in documents)]).astype("<i8").tobytes()
    shard = {"file": "shard-00000.bin", "num_tokens": len(data) // 2, "sha256": hashlib.sha256(data).hexdigest()}
    about = {"num_documents": 3, "num_bytes": sum(map(len, documents)), "shards": [shard]}
    column = io.BytesIO()
    parquet.write_table(pa.table({"text": TEXTS}), column)
    corpus = make(store, CorpusSpec(), {}, {"heldout/part-00000.parquet": column.getvalue()}, "tiny")
    tokenizer = make(store, TokenizerSpec(), {}, TOKENIZER, "tiny")
    index = {
        "dtype": "uint16",
        "vocab_size": VOCAB,
        "eos_token_id": EOS,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "sequence_length": 32,
        "packing": "concatenate",
        "splits": {"heldout": about},
    }
    files = {
        "index.json": json.dumps(index).encode(),
        "heldout/shard-00000.bin": data,
        "heldout/documents.idx": offsets,
    }
    return make(store, TokensSpec(), {"corpus": corpus, "tokenizer": tokenizer}, files, "tiny")


def make_model(store: Store, folder: Path, tokenizer: dict[str, bytes]) -> Artifact:
    """A model whose next token is, for want of weights, any with the same probability."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return make(store, PretrainedSpec(source=str(folder)), {}, {**files, **tokenizer}, "tiny")


def test_perplexity(store: Store, tmp_path: Path) -> None:
    tokens = make_tokens(store)
    model = make_model(store, tmp_path / "model", TOKENIZER)
    made = build(PerplexitySpec(), {"model": model, "tokens": tokens}, store=store, name="x")
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert made.metrics == {
        "bits_per_byte": pytest.approx(math.log2(VOCAB)),
        "token_perplexity": pytest.approx(VOCAB),
        "documents": 3,
        "tokens": num_bytes,
        "bytes": num_bytes,
    }
    found = read(made)
    (task,) = found.data_sha256
    assert task == f"{tokens.parent('corpus').record.ref}/heldout"
    weights = [outcome.weight for outcome in found.outcomes[task, "bits_per_byte"]]
    assert weights == [len(text.encode()) for text in TEXTS]
    # All documents are as hard as each other, so that no draw of them gives another figure.
    result = found.results[task, "token_perplexity"]
    assert (result.ci_low, result.ci_high) == (pytest.approx(VOCAB), pytest.approx(VOCAB))
    first = build(PerplexitySpec(max_documents=2), {"model": model, "tokens": tokens}, store=store, name="x")
    assert first.metrics["tokens"] == len((TEXTS[0] + TEXTS[1]).encode())


def test_another_tokenizer_is_refused(store: Store, tmp_path: Path) -> None:
    model = make_model(store, tmp_path / "model", {"tokenizer.json": b'{"model": "other"}'})
    with pytest.raises(InputError, match="has another tokenizer"):
        build(PerplexitySpec(), {"model": model, "tokens": make_tokens(store)}, store=store, name="x")
