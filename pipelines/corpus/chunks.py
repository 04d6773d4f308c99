"""One chunk of files: read, filter, and sign. The unit of parallelism, of resuming, and of quarantine.

A chunk is cut by count from the seeded order of the files, so that neither the number of workers nor an interruption
shows in it. Its documents are written first and its summary last: the summary is the sign that it is done, for as long
as the files are those that it was made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.location import Location
from cluster.specs import CorpusSpec
from pipelines.corpus.filters import FILE_SIZE, filters_of, first_reason
from pipelines.corpus.near_dedup import shingles, signature
from pipelines.corpus.sources import SourceFile

CHUNK_FILES = 128
ROW_GROUP_DOCUMENTS = 16  # small, so that picking a few documents out of a chunk reads little else
UNREADABLE = "unreadable"

DOCUMENT_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "license", "url", "metadata")])


def keyed_hash(seed: int, purpose: str, value: str) -> int:
    """A 64-bit hash of a value for one purpose of one seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}/{value}".encode(), digest_size=8).digest(), "big")


def in_order(files: list[SourceFile], seed: int) -> list[SourceFile]:
    """The files in the order in which they are sampled: a hash of their names, fair and stable."""
    return sorted(files, key=lambda file: (keyed_hash(seed, "order", file.name), file.name))


def process(spec: CorpusSpec, work: Location, number: int, files: list[SourceFile]) -> dict[str, Any]:
    """Read and filter the files of a chunk, write the kept documents, and return (and write) the summary."""
    summary_name, documents_name = f"chunk-{number:06d}.json", f"chunk-{number:06d}.parquet"
    listing = _listing(files)
    if work.exists(summary_name):
        summary = dict(json.loads(work.read_bytes(summary_name)))
        if summary["listing"] == listing:  # else files came, went or changed since the run that was killed
            return summary
    rules = filters_of(spec)
    documents: list[dict[str, str]] = []
    kept: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    for file in files:
        text, reason = _read(file, spec.max_file_bytes)
        reason = reason or first_reason(rules, text)
        if reason:
            rejected.append({"id": file.name, "source": file.source, "reason": reason, "duplicate_of": ""})
            continue
        content = hashlib.sha256("".join(text.split()).encode()).hexdigest()
        documents.append({**_document(file), "text": text})
        bands = signature(shingles(text), spec.near_dedup_threshold).tolist()
        kept.append(
            {
                "id": file.name,
                "source": file.source,
                "license": file.license,
                "bytes": len(text.encode()),
                "content": content,
                "bands": bands,
            }
        )
    with work.open(documents_name, "wb") as sink:
        table = pa.Table.from_pylist(documents, schema=DOCUMENT_SCHEMA)
        pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_DOCUMENTS)
    summary = {"number": number, "files": len(files), "listing": listing, "kept": kept, "rejected": rejected}
    work.write_bytes(summary_name, json.dumps(summary).encode())
    return summary


def _listing(files: list[SourceFile]) -> str:
    """A digest of the files' names and metadata, sizes and times of change."""
    digest = hashlib.sha256()
    for file in files:
        try:
            status = os.stat(file.path)
            seen = (status.st_size, status.st_mtime_ns)
        except OSError:
            seen = (-1, -1)
        digest.update(repr((file, seen)).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _read(file: SourceFile, max_bytes: int) -> tuple[str, str]:
    """The text of a file, and why there is none (or an empty string)."""
    try:
        status = os.stat(file.path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            return "", f"{UNREADABLE}: not a regular file"
        if status.st_size > 2 * max_bytes + 3:  # too large even if it were a byte order mark and \r\n throughout
            return "", FILE_SIZE
        with open(file.path, encoding="utf-8-sig", newline="") as stream:
            return stream.read().replace("\r\n", "\n"), ""
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        return "", f"{UNREADABLE}: {cause}"


def _document(file: SourceFile) -> dict[str, str]:
    fields = asdict(file)
    name = fields.pop("name")
    fields.pop("path")
    return {"id": name, **fields, "metadata": json.dumps({"path": name})}


def pick(work: Location, number: int, rows: list[int]) -> list[dict[str, str]]:
    """Some documents of a finished chunk by their row, in the order asked for."""
    with work.open(f"chunk-{number:06d}.parquet") as source:
        file = pq.ParquetFile(source)
        found: dict[int, dict[str, str]] = {}
        for group in sorted({row // ROW_GROUP_DOCUMENTS for row in rows}):
            first = group * ROW_GROUP_DOCUMENTS
            for offset, document in enumerate(file.read_row_group(group).to_pylist()):
                found[first + offset] = document
    return [found[row] for row in rows]
