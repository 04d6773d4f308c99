"""Parquet files with a column of texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.records import from_record
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading.files import open_stream, seekable

BATCH_ROWS = 64  # rows of a file in memory at once


class ParquetSource(Source, frozen=True, tag="parquet"):
    """Parquet files with a column of texts (or of lists of strings). Columns of bytes are left out."""

    endings: ClassVar[tuple[str, ...]] = (".parquet",)

    text_field: str = "text"
    """Column that holds the text; dots reach into structs."""
    id_field: str = ""
    """Column that identifies a document; empty numbers the rows of a file."""

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """A document a row, numbered from 1. Columns of bytes are left out, but for those of texts, ids, URLs and
        licences; dates and decimals become strings. Of columns of one name the first counts.
        """
        import pyarrow.parquet as pq

        from pipelines.stages.corpus.readers.columns import rows

        number = 0
        with (
            open_stream(file) as stream,
            seekable(stream) as whole,
            pq.ParquetFile(whole, buffer_size=1 << 20, pre_buffer=False) as parquet,
        ):
            schema = parquet.schema_arrow
            wanted = {field.partition(".")[0] for field in (self.text_field, self.id_field)} | {"url", "license"}
            wanted |= {self.text_field, self.id_field}
            chosen: dict[str, int] = {}
            for place, field in enumerate(schema):
                if field.name in wanted or "binary" not in str(field.type):
                    chosen.setdefault(field.name, place)
            if not {self.text_field, self.text_field.partition(".")[0]} & set(chosen):
                raise ValueError(f"no column {self.text_field!r} of texts among {', '.join(schema.names)}")
            # Columns of one name cannot be asked for by it.
            columns = list(chosen) if len(set(schema.names)) == len(schema) else None
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                places = {name: batch.schema.get_field_index(name) if columns else chosen[name] for name in chosen}
                for record in rows(
                    {name: batch.column(place) for name, place in places.items()}, batch.num_rows, self.text_field
                ):
                    number += 1
                    yield from_record(file, number, record, self.text_field, self.id_field, "row")
