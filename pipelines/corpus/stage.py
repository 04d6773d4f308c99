"""The corpus stage, on Ray Data.

Chunks of files are read and filtered in parallel, documents are chosen on the chunks' summaries, and the parts of the
corpus are written in parallel. Every task leaves a finished file or none, so that a killed run goes on.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.context import Context
from cluster.errors import InputError
from cluster.location import Location
from cluster.runtime import connect
from cluster.specs import CorpusSpec
from pipelines.corpus.chunks import CHUNK_FILES, DOCUMENT_SCHEMA, UNREADABLE, in_order, pick, process
from pipelines.corpus.selection import SPLITS, Chooser, Document, Selection, parts
from pipelines.corpus.sources import list_files
from pipelines.ordered import ordered_map

WORK = ".work"
REPORT_FILE = "report.json"
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "reason", "duplicate_of")])


def build(ctx: Context[CorpusSpec]) -> dict[str, Any]:
    """Write `train/`, `heldout/` and `rejected/` (Parquet) and `report.json`. Raises InputError for a bad source."""
    if ctx.output.exists(REPORT_FILE):  # killed after its last step
        return _finish(ctx.output)
    spec = ctx.spec
    files = in_order(list_files(spec), spec.seed)
    connect(ctx.scaling)
    work = ctx.output / WORK
    chunks = [files[start : start + CHUNK_FILES] for start in range(0, len(files), CHUNK_FILES)]
    chooser = Chooser(spec, len(files))
    tasks = [{"number": number, "files": chunk} for number, chunk in enumerate(chunks)]
    done = 0
    while done < len(tasks) and not chooser.full:
        # Every wave is read to its end: a task that outlived this loop would write into the artifact.
        wave = tasks[done : done + _wave_size(ctx, chooser, done, len(tasks))]
        for summary in ordered_map(
            lambda task: process(spec, work, task["number"], task["files"]), wave, ctx.scaling.data_workers
        ):
            if not chooser.full:
                chooser.take(summary)
                _progress(ctx, chooser)
        done += len(wave)
    _check_readable(spec, chooser)
    _drop_stale_parts(ctx.output, chooser.listing)
    selection = chooser.finish(work)
    if not all(selection.splits.values()):
        raise InputError(
            f"corpus: nothing is left for {' and '.join(n for n in SPLITS if not selection.splits[n])} "
            f"of {len(files)} files: {selection.flow()}",
            "Give more files, looser filters or a larger heldout_fraction.",
        )
    _write_parts(ctx, work, selection)
    _write_rejected(ctx.output, selection)
    ctx.output.write_bytes(REPORT_FILE, json.dumps(_report(selection), indent=2, ensure_ascii=False).encode())
    return _finish(ctx.output)


def _wave_size(ctx: Context[CorpusSpec], chooser: Chooser, done: int, chunks: int) -> int:
    """How many chunks will probably fill the budget; a guess that costs time where it is wrong, and nothing else."""
    if not ctx.spec.max_bytes:
        return chunks
    if not chooser.kept_bytes:
        return 2 * ctx.scaling.data_workers
    return math.ceil((ctx.spec.max_bytes - chooser.kept_bytes) / (chooser.kept_bytes / done))


def _drop_stale_parts(output: Location, listing: str) -> None:
    """Parts that a killed run wrote count only if it saw the same files."""
    name = f"{WORK}/listing"
    if output.exists(name) and output.read_bytes(name).decode() != listing:
        for split in SPLITS:
            output.remove(split)
    output.write_bytes(name, listing.encode())


def _finish(output: Location) -> dict[str, Any]:
    """Remove the intermediate files and return the stage's metrics."""
    (output / WORK).remove()
    report = json.loads(output.read_bytes(REPORT_FILE))
    return {
        "documents": report["documents"],
        "bytes": report["bytes"],
        "flow": report["flow"],
        "licenses": report["licenses"],
    }


def _progress(ctx: Context[CorpusSpec], chooser: Chooser) -> None:
    if ctx.spec.max_bytes:
        done, total, unit = min(chooser.kept_bytes, ctx.spec.max_bytes), ctx.spec.max_bytes, "bytes"
    else:
        done, total, unit = chooser.seen_files, chooser.selection.files, "files"
    ctx.progress(done, total, unit, documents=len(chooser.kept))


def _check_readable(spec: CorpusSpec, chooser: Chooser) -> None:
    bad = [entry for entry in chooser.selection.rejected if entry["reason"].startswith(UNREADABLE)]
    if len(bad) > spec.max_bad_fraction * chooser.seen_files:
        raise InputError(
            f"{len(bad)} of {chooser.seen_files} files cannot be read, the first: {bad[0]['id']} ({bad[0]['reason']})",
            "Mend them, or raise corpus.max_bad_fraction.",
        )


def _write_parts(ctx: Context[CorpusSpec], work: Location, selection: Selection) -> None:
    tasks = [
        {"name": f"{split}/part-{number:05d}.parquet", "where": [(d.chunk, d.row) for d in part]}
        for split in SPLITS
        for number, part in enumerate(parts(selection.splits[split], ctx.spec.part_bytes))
    ]
    output = ctx.output
    for _ in ordered_map(
        lambda task: _write_part(output, work, task["name"], task["where"]), tasks, ctx.scaling.data_workers
    ):
        pass


def _write_part(output: Location, work: Location, name: str, where: list[tuple[int, int]]) -> dict[str, str]:
    """Gather the documents of one part from their chunks and write them in order."""
    if not output.exists(name):
        rows_of: dict[int, list[int]] = defaultdict(list)
        for chunk, row in where:
            rows_of[chunk].append(row)
        found = {
            (chunk, row): document
            for chunk, rows in rows_of.items()
            for row, document in zip(rows, pick(work, chunk, rows), strict=True)
        }
        _write_table(output, name, pa.Table.from_pylist([found[place] for place in where], schema=DOCUMENT_SCHEMA))
    return {"name": name}


def _write_rejected(output: Location, selection: Selection) -> None:
    rows = sorted(selection.rejected, key=lambda entry: entry["id"])
    _write_table(output, "rejected/part-00000.parquet", pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA))


def _write_table(output: Location, name: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=1024)
    output.write_bytes(name, sink.getvalue().to_pybytes())


def _report(selection: Selection) -> dict[str, Any]:
    documents: list[Document] = [d for split in SPLITS for d in selection.splits[split]]
    return {
        "flow": selection.flow(),
        "steps": selection.steps(),
        "documents": {name: len(selection.splits[name]) for name in SPLITS},
        "bytes": {name: sum(d.size_bytes for d in selection.splits[name]) for name in SPLITS},
        "licenses": dict(_ranked(Counter(d.license for d in documents))),
        "sources": dict(_ranked(Counter(d.source for d in documents))),
    }


def _ranked(counts: Counter[str]) -> Iterator[tuple[str, int]]:
    yield from sorted(counts.items(), key=lambda item: (-item[1], item[0]))
