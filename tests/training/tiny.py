"""A tiny corpus with structure to learn, as finished tokenizer and tokens artifacts in a store."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec, TokenizerSpec, TokensSpec
from tests.core.toys import WordsSpec
from tests.made import make

VOCAB = 64
EOS = 0
LENGTH = 32
MARKERS = ("[MASK]", "[sMASK]", "[gMASK]", "<sop>", "<eop>")  # their ids follow the words'


def _split(rng: np.random.Generator, documents: int) -> tuple[bytes, bytes, dict[str, Any]]:
    """Documents that count upwards from a random start, each followed by the end-of-text token."""
    pieces, offsets = [np.empty(0, dtype=np.int64)], [0]
    for _ in range(documents):
        length = int(rng.integers(5, 40))
        pieces.append(np.append(1 + (int(rng.integers(VOCAB)) + np.arange(length)) % (VOCAB - 1), EOS))
        offsets.append(offsets[-1] + length + 1)
    data = np.concatenate(pieces).astype("<u2").tobytes()
    shard = {"file": "shard-00000.bin", "num_tokens": offsets[-1], "sha256": hashlib.sha256(data).hexdigest()}
    about = {"num_tokens": offsets[-1], "num_documents": documents, "num_bytes": offsets[-1], "shards": [shard]}
    return data, np.asarray(offsets, "<i8").tobytes(), about


def tokenizer_json() -> bytes:
    """A tokenizer that knows the words w1, w2, ..., of which every eighth ends a sentence, and the markers."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<|endoftext|>", *(f"w{number}{'' if number % 8 else '.'}" for number in range(1, VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate((*words, *MARKERS))}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|endoftext|>", *MARKERS])
    return tokenizer.to_str().encode()


def make_tokens(
    store: Store, corpus: str = "", documents: int = 400, length: int = LENGTH, markers: bool = False
) -> Artifact:
    """The tokens artifact, with its tokenizer, built or found; another for every name of a corpus."""
    definition = tokenizer_json() if markers else b'{"model": "tiny"}'
    special = MARKERS if markers else ()
    tokenizer = {"tokenizer.json": definition, "tokenizer_config.json": b"{}"}
    parent = make(store, TokenizerSpec(special_tokens=special), {}, tokenizer, "tiny")
    rng = np.random.default_rng(list(corpus.encode()))
    files, splits = {}, {}
    for split, number in (("train", documents), ("heldout", documents // 10)):
        data, offsets, splits[split] = _split(rng, number)
        files |= {f"{split}/shard-00000.bin": data, f"{split}/documents.idx": offsets}
    index = {
        "dtype": "uint16",
        "vocab_size": VOCAB + len(special),
        "eos_token_id": EOS,
        "tokenizer_fingerprint": parent.fingerprint,
        "sequence_length": length,
        "packing": "concatenate",
        "splits": splits,
    }
    files["index.json"] = json.dumps(index).encode()
    parents = {"tokenizer": parent}
    if corpus:
        parents["corpus"] = make(store, WordsSpec(words=(corpus,)), {}, {"0.txt": corpus.encode()}, "tiny")
    return make(store, TokensSpec(sequence_length=length), parents, files, "tiny")


SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
BATCH = 8


def pretrain(steps: int, **changes: Any) -> PretrainSpec:
    """A spec that trains a tiny model for so many steps."""
    fields: dict[str, Any] = {
        "model": "llama-1m",
        "model_overrides": SMALL | {"intermediate_size": 64},
        "total_tokens": steps * BATCH * LENGTH,
        "global_batch_size": BATCH,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "validation_sequences": 11,
    }
    return PretrainSpec(**(fields | changes))


def run_rounds(root: Path, cases: dict[str, Any]) -> Path:
    """The folder, with one output folder for each case (rounds.py)."""
    make_tokens(Store(root / "store"))
    (root / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, str(Path(__file__).with_name("rounds.py")), str(root), str(root / "cases.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=840)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def saved_bytes(objective: Any, batch: Any) -> int:
    """What a forward pass keeps for the backward pass besides the weights."""
    from torch.autograd.graph import saved_tensors_hooks

    weights = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    saved: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(batch)
    return sum(storage.nbytes() for storage in saved.values())
