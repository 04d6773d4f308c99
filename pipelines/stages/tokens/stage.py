"""The tokens stage, on Ray Data: every part of the corpus becomes a shard, encoded, packed, written and digested by one
task with a few megabytes in memory.

A shard's summary is written after it, so that a killed run redoes at most the shards that were being written. The
layout follows the corpus and not the workers; the only thing left for one process is to add up offsets.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.control.runtime import connect
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from pipelines.specs import TokensSpec
from pipelines.stages.ordered import ordered_map
from pipelines.stages.tokens.lengths import Statistics
from pipelines.stages.tokens.packing import best_fit
from pipelines.stages.tokens.reader import (
    DOCUMENTS_FILE,
    HEADER_FILE,
    INDEX_FILE,
    OFFSET,
    SEGMENTS_FILE,
    SEQUENCES_FILE,
)
from pipelines.stages.tokens.tokenizers.encoder import Encoder, Mismatch, load, sample

SPLITS = ("heldout", "train")  # the small one first: a training run that begins early waits for all of it
BATCH_DOCUMENTS = 1024
BATCH_BYTES = 4 << 20  # of text that is encoded at once; one document may be larger
STATISTICS_FILE = "statistics.json"
COUNTS_FILE = "counts"  # of the pieces of the vocabulary in one shard
PIECES = (DOCUMENTS_FILE, SEQUENCES_FILE, SEGMENTS_FILE)  # of a split; a shard's own lie beside it until the end


def build(ctx: Context[TokensSpec]) -> dict[str, Any]:
    """Write the shards, the offsets of each split, and `index.json`. Raises InputError for a corpus too small."""
    output, spec = ctx.output, ctx.spec
    if output.exists(INDEX_FILE):  # killed after its last step
        return _clean(output)
    corpus, tokenizer = ctx.inputs["corpus"], ctx.inputs["tokenizer"]
    connect(ctx.scaling)
    tasks = [
        {"split": split, "part": name, "shard": f"{split}/shard-{number:05d}"}
        for split in SPLITS
        for number, name in enumerate(n for n in corpus.location.names(split) if n.endswith(".parquet"))
    ]
    num_shards = {split: sum(task["split"] == split for task in tasks) for split in SPLITS}

    def begin() -> dict[str, Any]:
        header = describe(spec, load(str(tokenizer.local())), tokenizer.fingerprint)
        output.write_bytes(HEADER_FILE, json.dumps(header | {"num_shards": num_shards}).encode())
        return header

    with ThreadPoolExecutor(1) as side:  # loading a tokenizer takes as long as encoding a part
        header = side.submit(begin)
        found = {f"{split}/{name}" for split in SPLITS for name in output.names(split)}
        done: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        tokens = encoded_bytes = 0
        started = time.monotonic()
        summaries = ordered_map(
            lambda task: _task(corpus, tokenizer, output, spec, task), tasks, ctx.scaling.data_workers
        )
        for number, (task, summary) in enumerate(zip(tasks, summaries, strict=True), 1):
            done[task["split"]].append(summary)
            tokens += summary["num_tokens"]
            encoded_bytes += 0 if f"{task['shard']}.json" in found else summary["num_bytes"]
            speed = encoded_bytes / 1e6 / (time.monotonic() - started)
            ctx.progress(number, len(tasks), "parts", tokens=tokens, mb_per_second=round(speed, 1))
    return assemble(output, header.result(), done)


def describe(spec: TokensSpec, encoder: Encoder, fingerprint: str) -> dict[str, Any]:
    """What is known of a store before its first shard is."""
    return {
        "dtype": _dtype(encoder).name,
        "vocab_size": encoder.vocab_size,
        "eos_token_id": encoder.eos_token_id,
        "tokenizer_fingerprint": fingerprint,
        "sequence_length": spec.sequence_length,
        "packing": spec.packing,
        "encoder": encoder.name,
        "encoder_note": encoder.why_not,
    }


def assemble(output: Location, header: dict[str, Any], summaries: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Make one store of all shards, given their summaries by split, and return the stage's metrics."""
    statistics = {split: _statistics(output, split, summaries[split], header["vocab_size"]) for split in SPLITS[::-1]}
    output.write_bytes(STATISTICS_FILE, json.dumps(statistics, indent=1, ensure_ascii=False).encode())
    splits = {split: _finish(output, split, summaries[split]) for split in SPLITS}
    if splits["train"]["num_tokens"] <= header["sequence_length"]:
        raise InputError(
            f"tokens.sequence_length: {header['sequence_length']} is longer than the whole train split "
            f"({splits['train']['num_tokens']} tokens)",
            "Give shorter sequences or a larger corpus.",
        )
    output.write_bytes(INDEX_FILE, json.dumps(header | {"splits": splits}, indent=2).encode())
    return _clean(output)


def _clean(output: Location) -> dict[str, Any]:
    """Remove what only resuming needs, the shards' summaries and pieces, and return the stage's metrics."""
    index = json.loads(output.read_bytes(INDEX_FILE))
    splits = index["splits"]
    output.remove(HEADER_FILE)
    for split in SPLITS:
        shards = {shard["file"] for shard in splits[split]["shards"]}
        for name in output.names(split):
            if name not in shards and name not in PIECES:
                output.remove(f"{split}/{name}")
    train = splits["train"]
    metrics = {f"{split}_tokens": splits[split]["num_tokens"] for split in SPLITS}
    metrics |= {"bytes_per_token": train["num_bytes"] / train["num_tokens"], "encoder": index["encoder"]}
    metrics["fallback_shards"] = sum("fallback" in shard for split in SPLITS for shard in splits[split]["shards"])
    if index["encoder_note"]:
        metrics["encoder_note"] = index["encoder_note"]
    if index["packing"] == "best_fit":
        places = train["num_sequences"] * (index["sequence_length"] + 1)
        metrics["padding_fraction"] = 1 - train["num_tokens"] / places
        metrics["cuts"] = train["num_segments"] - train["num_documents"]
    return metrics


def _dtype(encoder: Encoder) -> np.dtype[np.integer]:
    return np.dtype("<u2" if encoder.vocab_size <= 2**16 else "<u4")


def _task(
    corpus: Artifact, tokenizer: Artifact, output: Location, spec: TokensSpec, task: dict[str, str]
) -> dict[str, Any]:
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # a task reserves one CPU
    return encode_part(corpus.location, load(str(tokenizer.local())), output, spec, **task)


def encode_part(
    corpus: Location, encoder: Encoder, output: Location, spec: TokensSpec, split: str, part: str, shard: str
) -> dict[str, Any]:
    """Encode one part into one shard unless that has been done, and return its summary.

    Where the accelerator is caught at a mistake, the reference encodes the whole shard; `fallback` then says why.
    """
    if output.exists(f"{shard}.json"):
        return dict(json.loads(output.read_bytes(f"{shard}.json")))
    source = f"{split}/{part}"
    try:
        summary = _write(corpus, source, encoder, output, spec, shard, accelerated=True)
    except Mismatch as error:
        summary = _write(corpus, source, encoder, output, spec, shard, accelerated=False)
        summary["fallback"] = str(error)
    output.write_bytes(f"{shard}.json", json.dumps(summary).encode())
    return summary


def _write(
    corpus: Location, source: str, encoder: Encoder, output: Location, spec: TokensSpec, shard: str, accelerated: bool
) -> dict[str, Any]:
    """Write a shard and its pieces; an end-of-text token follows every document."""
    dtype = _dtype(encoder)
    digest = hashlib.sha256()
    lengths = [np.empty(0, dtype=np.int64)]
    statistics = Statistics(encoder.vocab_size)
    num_bytes = num_documents = 0
    with output.open(f"{shard}.bin", "wb") as sink:
        for texts, sources, sizes in _texts(corpus, source):
            encoded = encoder.encode(texts) if accelerated else encoder.encode_by_reference(texts)
            if accelerated:
                encoder.verify(texts, encoded, sample(shard, num_documents, len(texts), spec.verify_fraction))
            ids = np.insert(encoded.ids.astype(dtype), encoded.offsets[1:], encoder.eos_token_id)
            digest.update(ids.data)
            sink.write(ids.data)
            lengths.append(np.diff(encoded.offsets) + 1)
            statistics.add(sources, ids, lengths[-1], sizes)
            num_bytes += int(sizes.sum())
            num_documents += len(texts)
    output.write_bytes(f"{shard}.{COUNTS_FILE}", statistics.pieces.astype(OFFSET).tobytes())
    summary = {
        "file": f"{shard.rpartition('/')[2]}.bin",
        "num_tokens": sum(int(some.sum()) for some in lengths),
        "num_documents": num_documents,
        "num_bytes": num_bytes,
        "sha256": digest.hexdigest(),
        "statistics": statistics.summary(),
    }
    return summary | _write_pieces(output, shard, np.concatenate(lengths), spec)


def _texts(corpus: Location, part: str) -> Iterator[tuple[list[str], pa.Array, npt.NDArray[np.int64]]]:
    """The texts of a part, some megabytes at a time, with their sources and their sizes in bytes of UTF-8."""
    with corpus.open(part) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=BATCH_DOCUMENTS, columns=["text", "source"]):
            column, sources = batch.column("text"), batch.column("source")
            sizes = pc.binary_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
            ends = np.cumsum(sizes)
            start = before = 0
            while start < len(column):
                stop = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
                yield _strings(column[start:stop]), sources[start:stop], sizes[start:stop]
                start, before = stop, int(ends[stop - 1])


def _strings(column: pa.Array) -> list[str]:
    strings: list[str] = column.to_numpy(zero_copy_only=False).tolist()  # faster than to_pylist
    return strings


def _write_pieces(output: Location, shard: str, lengths: npt.NDArray[np.int64], spec: TokensSpec) -> dict[str, int]:
    """The offsets within one shard: where documents end and, for `best_fit`, what sequences hold."""
    pieces = {DOCUMENTS_FILE: np.cumsum(lengths)}
    figures = {}
    if spec.packing == "best_fit":
        packed = best_fit(lengths, spec.sequence_length + 1)
        pieces |= {SEQUENCES_FILE: packed.offsets[1:], SEGMENTS_FILE: packed.segments}
        figures = {"num_sequences": len(packed.offsets) - 1, "num_segments": len(packed.segments)}
    for name, array in pieces.items():
        output.write_bytes(f"{shard}.{name}", array.astype(OFFSET).tobytes())
    return figures


def _finish(output: Location, split: str, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the shards' offsets into those of a split, a shard at a time, and return its entry of the index."""
    totals = {
        name: sum(summary[name] for summary in summaries)
        for name in ("num_tokens", "num_documents", "num_bytes", "num_sequences", "num_segments")
        if all(name in summary for summary in summaries)
    }
    _join(output, split, summaries, DOCUMENTS_FILE, "num_tokens", [0])
    if "num_sequences" in totals:
        _join(output, split, summaries, SEQUENCES_FILE, "num_segments", [0])
        _join(output, split, summaries, SEGMENTS_FILE, "num_tokens", [])
    kept = ("file", "num_tokens", "num_sequences", "sha256", "fallback")
    return {**totals, "shards": [{key: summary[key] for key in kept if key in summary} for summary in summaries]}


def _statistics(output: Location, split: str, summaries: list[dict[str, Any]], vocab_size: int) -> dict[str, Any]:
    total = Statistics(vocab_size)
    for summary in summaries:
        pieces = output.read_bytes(f"{split}/{summary['file'].removesuffix('.bin')}.{COUNTS_FILE}")
        total.merge(summary["statistics"], np.frombuffer(pieces, dtype=OFFSET))
    return total.report()


def _join(
    output: Location, split: str, summaries: list[dict[str, Any]], name: str, counted: str, begin: list[int]
) -> None:
    """One file of the shards' pieces, each moved by what the shards before it hold."""
    base = 0
    with output.open(f"{split}/{name}", "wb") as sink:
        sink.write(np.array(begin, dtype=OFFSET).data)
        for summary in summaries:
            piece = output.read_bytes(f"{split}/{summary['file'].removesuffix('.bin')}.{name}")
            sink.write((np.frombuffer(piece, dtype=OFFSET) + base).data)
            base += summary[counted]
