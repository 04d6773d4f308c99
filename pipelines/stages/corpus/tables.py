"""The tables that a corpus is made of, as Parquet files."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.core.storage.location import Location
from pipelines.stages.corpus.documents import COLUMNS

DOCUMENT_SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
REJECTED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "source", "step", "reason", "duplicate_of", "position", "excerpt")]
)
IDS_SCHEMA = pa.schema([("id", pa.string()), ("split", pa.uint64())])
GROUP_BYTES = 1 << 20


class TableWriter:
    """A Parquet file written a few rows at a time, so that memory stays flat."""

    def __init__(self, place: Location, name: str, schema: pa.Schema) -> None:
        self._place, self._name, self._schema = place, name, schema
        self._rows: list[dict[str, Any]] = []
        self._waiting_bytes = 0

    def __enter__(self) -> TableWriter:
        self._sink = self._place.open(self._name, "wb")
        self._writer = pq.ParquetWriter(self._sink, self._schema, compression="zstd")
        return self

    def __exit__(self, *raised: object) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._waiting_bytes += sum(len(value) for value in row.values() if isinstance(value, str)) + 64
        if self._waiting_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []
            self._waiting_bytes = 0
