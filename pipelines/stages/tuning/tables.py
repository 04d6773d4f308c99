"""Tables of records: comma- or tab-separated values with a head, and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from cluster.core.storage.location import PACKED
from pipelines.stages.corpus.documents import SourceFile
from pipelines.stages.corpus.reading.files import MAX_DOCUMENT_BYTES, seekable
from pipelines.stages.tuning.streams import PARQUET

DELIMITERS = {".csv": ",", ".tsv": "\t"}
BATCH_ROWS = 256  # of Parquet in memory at once


def is_table(name: str, head: bytes) -> bool:
    """Whether a file is a table: by what it begins with, or by its name where it begins with no JSON."""
    return head.startswith(PARQUET) or bool(_delimiter(name) and head.lstrip()[:1] not in (b"{", b"["))


def rows(file: SourceFile, stream: io.BufferedReader, head: bytes) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows by their lines (of Parquet, their numbers), or why one is none. Raises ValueError for a broken file."""
    return _parquet(stream) if head.startswith(PARQUET) else _separated(stream, _delimiter(file.name))


def _separated(stream: io.BufferedReader, delimiter: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    text = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter)
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) < len(names):
            raise ValueError(f"line 1: two columns of one name among {', '.join(names)}")
        before = reader.line_num
        for cells in reader:
            line, before = before + 1, reader.line_num
            if not cells:
                continue
            if len(cells) != len(names):
                yield line, f"cells of a row: {len(cells)}, where the head has {len(names)}"
            elif any(not cell.isascii() and _is_broken(cell) for cell in cells):
                yield line, "not UTF-8: a cell holds other bytes; set `encoding`"
            else:
                yield line, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


def _is_broken(cell: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in cell)


def _parquet(stream: io.BufferedReader) -> Iterator[tuple[int, dict[str, Any] | str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.stages.corpus.readers.columns import rows

    number = 0
    try:
        with seekable(stream) as whole, pq.ParquetFile(whole, pre_buffer=False) as parquet:
            names = parquet.schema_arrow.names
            if len(set(names)) < len(names):
                raise ValueError(f"two columns of one name among {', '.join(names)}")
            for batch in parquet.iter_batches(BATCH_ROWS):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                for row in rows(columns, batch.num_rows):
                    number += 1
                    yield number, _without_nulls(row)
    except pa.ArrowException as error:
        raise ValueError(f"row {number + 1}: {error}") from error


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON would have it: in lists of structs Arrow gives every struct the fields of all others, null."""
    return {name: _pruned(value) if isinstance(value, list | dict) else value for name, value in row.items()}


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(each) for key, each in value.items() if each is not None}
    return [_pruned(each) for each in value] if isinstance(value, list) else value


def _delimiter(name: str) -> str:
    name = name.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    return next((mark for ending, mark in DELIMITERS.items() if name.endswith(ending)), "")
