"""A run without the training: real corpus, tokenizer and tokens, and an untrained model that claims some steps."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cluster.core.specs import spec as specs
from cluster.core.storage.artifact import Artifact, Code, Parent, Record
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import CorpusSpec, MinHash, PretrainSpec, TextSource, TokenizerSpec, TokensSpec

STEPS = 6
LENGTH = 64
PRETRAIN = PretrainSpec(model="llama-1m", total_tokens=STEPS * 2 * LENGTH, global_batch_size=2, seed=3)


def write_sources(folder: Path) -> None:
    """Small Python files, all different, one of them not ASCII."""
    folder.mkdir(parents=True)
    for i in range(60):
        lines = [f"def function_{i}_{j}(value):\n    return value * {i * j} + {j}\n" for j in range(3 + i % 7)]
        (folder / f"file_{i}.py").write_text(f"# Straße {i}: 文字 🙂\n" + "\n\n".join(lines))


def make_data(store: Store, folder: Path) -> dict[str, Artifact]:
    """The corpus, tokenizer and tokens artifacts of the files in `folder`."""
    spec = CorpusSpec(sources=(TextSource(path=str(folder)),), heldout_fraction=0.2, minhash=MinHash(bands=1, rows=64))
    corpus = build(spec, {}, store=store, name="tiny")
    tokenizer = build(TokenizerSpec(vocab_size=320), {"corpus": corpus}, store=store, name="tiny")
    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    tokens = build(TokensSpec(sequence_length=LENGTH), inputs, store=store, name="tiny")
    return {"corpus": corpus, "tokenizer": tokenizer, "tokens": tokens}


def make_model(store: Store, tokens: Artifact, folder: Path) -> Artifact:
    """A pretrain artifact whose weights are random (with a spread that makes its choices clear)."""
    tokenizer = AutoTokenizer.from_pretrained(tokens.parent("tokenizer").local())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return commit_model(store, folder, PRETRAIN, {"tokens": tokens})


def commit_model(store: Store, folder: Path, spec: PretrainSpec, inputs: dict[str, Artifact]) -> Artifact:
    """Put a Hugging Face folder into the store as if it had been trained."""
    fingerprint = specs.fingerprint(spec, {name: artifact.fingerprint for name, artifact in inputs.items()})
    staging: Location = store.staging(spec.kind, "tiny", fingerprint)
    staging.put(folder)
    record = Record(
        kind=spec.kind,
        name="tiny",
        fingerprint=fingerprint,
        revision=spec.revision,
        spec=specs.fields(spec),
        parents={name: Parent(a.kind, a.name, a.fingerprint) for name, a in inputs.items()},
        scaling={},
        code=Code("c0ffee" * 6 + "c0ff", ""),
        versions={"python": "3"},
        started_at="2026-01-01T00:00:00+00:00",
        duration_seconds=0.0,
        metrics={"steps": STEPS, "tokens": spec.total_tokens},
        files={},
    )
    return store.commit(record, staging)
