"""The tokens stage, on Ray Data: every part of the corpus becomes a shard, encoded, written and digested by one task.

A shard's summary is written after it, so that a killed run redoes at most the shards that were being written. The
layout follows the corpus and not the workers; the only thing left for one process is to add up document offsets.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from cluster.artifact import Artifact
from cluster.context import Context
from cluster.errors import InputError
from cluster.location import Location
from cluster.runtime import connect
from cluster.specs import TokensSpec
from pipelines.ordered import ordered_map
from pipelines.tokens.reader import DOCUMENTS_FILE, INDEX_FILE
from pipelines.tokens.tokenizer import END_OF_TEXT

SPLITS = ("train", "heldout")
BATCH_DOCUMENTS = 256


def build(ctx: Context[TokensSpec]) -> dict[str, Any]:
    """Write the shards, `documents.idx` of each split, and `index.json`. Raises InputError for a corpus too small."""
    if ctx.output.exists(INDEX_FILE):  # killed after its last step
        return _clean(ctx.output)
    corpus, tokenizer = ctx.inputs["corpus"], ctx.inputs["tokenizer"]
    connect(ctx.scaling)
    reference = load(str(tokenizer.local()))
    vocab_size = reference.get_vocab_size()
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"
    tasks = [
        {"split": split, "part": name, "shard": f"{split}/shard-{number:05d}"}
        for split in SPLITS
        for number, name in enumerate(n for n in corpus.location.names(split) if n.endswith(".parquet"))
    ]
    output = ctx.output
    done: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    summaries = ordered_map(
        lambda task: encode_part(corpus, tokenizer, output, dtype, **task), tasks, ctx.scaling.data_workers
    )
    for number, summary in enumerate(summaries, 1):
        done[summary["split"]].append(summary)
        tokens = sum(entry["num_tokens"] for entries in done.values() for entry in entries)
        ctx.progress(number, len(tasks), "parts", tokens=tokens)
    splits = {split: _finish(output, split, done[split]) for split in SPLITS}
    if splits["train"]["num_tokens"] <= ctx.spec.sequence_length:
        raise InputError(
            f"tokens.sequence_length: {ctx.spec.sequence_length} is longer than the whole train split "
            f"({splits['train']['num_tokens']} tokens)",
            "Give shorter sequences or a larger corpus.",
        )
    index = {
        "dtype": dtype,
        "vocab_size": vocab_size,
        "eos_token_id": reference.token_to_id(END_OF_TEXT),
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "sequence_length": ctx.spec.sequence_length,
        "splits": splits,
    }
    output.write_bytes(INDEX_FILE, json.dumps(index, indent=2).encode())
    return _clean(output)


def _clean(output: Location) -> dict[str, Any]:
    """Remove the shards' summaries, which only resuming needs, and return the stage's metrics."""
    splits = json.loads(output.read_bytes(INDEX_FILE))["splits"]
    for split in SPLITS:
        for shard in splits[split]["shards"]:
            output.remove(f"{split}/{_summary_name(shard['file'])}")
    figures = {f"{split}_tokens": splits[split]["num_tokens"] for split in SPLITS}
    return {**figures, "bytes_per_token": splits["train"]["num_bytes"] / splits["train"]["num_tokens"]}


def _summary_name(shard: str) -> str:
    return shard.removesuffix(".bin") + ".json"


@functools.cache
def load(folder: str) -> Tokenizer:
    """The tokenizer of a Hugging Face folder (kept, since a worker encodes many parts).

    It takes `<|endoftext|>` in a text for ordinary characters: only we may end a document.
    """
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_part(
    corpus: Artifact, tokenizer: Artifact, output: Location, dtype: str, split: str, part: str, shard: str
) -> dict[str, Any]:
    """Encode one part into one shard; the end-of-text token follows every document."""
    if output.exists(f"{shard}.json"):
        return dict(json.loads(output.read_bytes(f"{shard}.json")))
    encoder = load(str(tokenizer.local()))
    end = encoder.token_to_id(END_OF_TEXT)
    digest = hashlib.sha256()
    lengths: list[int] = []
    num_bytes = 0
    with corpus.location.open(f"{split}/{part}") as source, output.open(f"{shard}.bin", "wb") as sink:
        for batch in pq.ParquetFile(source).iter_batches(batch_size=BATCH_DOCUMENTS, columns=["text"]):
            texts = batch.column("text").to_pylist()
            num_bytes += sum(len(text.encode()) for text in texts)
            for encoding in encoder.encode_batch_fast(texts, add_special_tokens=False):
                ids = np.array([*encoding.ids, end], dtype=np.dtype(dtype).newbyteorder("<"))
                lengths.append(len(ids))
                data = ids.tobytes()
                digest.update(data)
                sink.write(data)
    summary = {
        "split": split,
        "file": f"{shard.rpartition('/')[2]}.bin",
        "num_tokens": sum(lengths),
        "num_bytes": num_bytes,
        "sha256": digest.hexdigest(),
        "lengths": lengths,
    }
    output.write_bytes(f"{shard}.json", json.dumps(summary).encode())
    return summary


def _finish(output: Location, split: str, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the document index of a split and return its entry of the index."""
    lengths = np.array([length for summary in summaries for length in summary["lengths"]], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    output.write_bytes(f"{split}/{DOCUMENTS_FILE}", offsets.astype("<i8").tobytes())
    return {
        "num_tokens": int(offsets[-1]),
        "num_documents": len(lengths),
        "num_bytes": sum(summary["num_bytes"] for summary in summaries),
        "shards": [{key: summary[key] for key in ("file", "num_tokens", "sha256")} for summary in summaries],
    }
