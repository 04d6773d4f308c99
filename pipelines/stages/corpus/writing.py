"""The last step: what de-duplication decided is carried out, and the corpus is written, a chunk a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pyarrow.parquet as pq

from cluster.core.storage.location import Location
from pipelines.specs import CorpusSpec
from pipelines.stages.corpus.cleaning import LINES, Corpus, Summary, ids_file, rejection
from pipelines.stages.corpus.dedup import decisions
from pipelines.stages.corpus.dedup.decisions import EXACT, NEAR, held_out
from pipelines.stages.corpus.dedup.line_dedup import drop_lines, lines_to_drop
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.tables import DOCUMENT_SCHEMA, REJECTED_SCHEMA, TableWriter
from pipelines.stages.corpus.tally import Tally

SPLITS = ("train", "heldout")
LINE_DEDUP, SPLIT = "line_dedup", "split"


def write(corpus: Corpus, summary: Summary) -> Tally:
    """Write the parts and the rejected documents of a chunk, unless a run before this one has; what it counted."""
    name = f"written/{summary.number:08d}.json"
    if corpus.work.exists(name):
        return msgspec.json.decode(corpus.work.read_bytes(name), type=Tally)
    tally = Tally()
    for step in (EXACT, NEAR, *([LINE_DEDUP] if corpus.spec.line_dedup else []), SPLIT):
        tally.step(step)
    with TableWriter(corpus.output, f"rejected/part-{summary.number:08d}.parquet", REJECTED_SCHEMA) as rejected:
        for row in _rows(corpus.work, f"rejected/{summary.number:08d}.parquet"):
            rejected.add(row)
        for piece in summary.pieces:
            _write_piece(corpus, piece, tally, rejected)
    corpus.work.write_bytes(name, msgspec.json.encode(tally))
    return tally


def _write_piece(corpus: Corpus, piece: int, tally: Tally, rejected: TableWriter) -> None:
    decided = decisions.load(corpus.work, piece)
    with corpus.index.open(ids_file(piece)) as file:
        keys = pq.ParquetFile(file).read(columns=["split"]).column("split").to_numpy().copy()
    for row, decision in decided.items():
        keys[row] = decision.key
    held = held_out(keys, corpus.spec.heldout_fraction)
    dropped_lines = lines_to_drop(corpus.work / LINES, piece) if corpus.spec.line_dedup else {}
    with ExitStack() as open_files:
        writers: dict[str, TableWriter] = {}
        for row, found in enumerate(_rows(corpus.work, f"documents/{piece:08d}.parquet")):
            document = Document.of_row(found)
            if not _stays(corpus.spec, document, decided.get(row), dropped_lines.get(row), tally, rejected):
                continue
            split = SPLITS[int(held[row])]
            if split not in writers:
                writer = TableWriter(corpus.output, f"{split}/part-{piece:08d}.parquet", DOCUMENT_SCHEMA)
                writers[split] = open_files.enter_context(writer)
            writers[split].add(document.row())
            tally.step(SPLIT).entered += 1
            tally.keep(document, split)


def _stays(
    spec: CorpusSpec,
    document: Document,
    decision: decisions.Decision | None,
    lines: list[int] | None,
    tally: Tally,
    rejected: TableWriter,
) -> bool:
    drop = decision if decision and decision.drop else None
    for name in (EXACT, NEAR):
        step = tally.step(name)
        step.entered += 1
        if drop and drop.step == name:
            step.duplicates += 1
            rejected.add({**rejection(document, name, name.replace("dedup", "duplicate")), "duplicate_of": drop.of})
            return False
    if spec.line_dedup is None:
        return True
    step = tally.step(LINE_DEDUP)
    step.entered += 1
    if lines:
        before, document.text = document.text, drop_lines(document.text, lines, spec.line_dedup)
        step.changed += 1
        if not document.text.strip():
            tally.reject(LINE_DEDUP, document.id, "repeated", before)
            rejected.add(rejection(document, LINE_DEDUP, "repeated"))
            return False
    return True


def _rows(place: Location, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a row group at a time."""
    with place.open(name) as file:
        table = pq.ParquetFile(file)
        for number in range(table.num_row_groups):
            yield from table.read_row_group(number).to_pylist()
