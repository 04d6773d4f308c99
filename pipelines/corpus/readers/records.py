"""Records that carry a text: JSON, Parquet, and source code in CodeParrot's layout (JSON lines of the GitHub dump).

Every field but the text goes to the metadata; `url` and `license` go to their own places where they are strings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.specs.sources import CodeSource, JsonLinesSource, ParquetSource
from pipelines.corpus.documents import Broken, Document, SourceFile
from pipelines.corpus.files import open_stream
from pipelines.corpus.readers.json_objects import Object, objects

BATCH_ROWS = 64  # rows of a Parquet file in memory at once
CODE_FIELDS = ("repo_name", "path")


def read_json(source: JsonLinesSource, file: SourceFile) -> Iterator[Document | Broken]:
    """A document an object; `Broken` for a line that is no JSON and for an object without a text."""
    for number, record in objects(file):
        if isinstance(record, Broken):
            yield record
        else:
            yield document(file, f"{file.unit} {number}", number, record, source.text_field, source.id_field)


def read_code(source: CodeSource, file: SourceFile) -> Iterator[Document | Broken]:
    """A document a file of a repository: `<file>#<repo_name>/<path>`."""
    for number, record in objects(file):
        if isinstance(record, Broken):
            yield record
            continue
        found = document(file, f"{file.unit} {number}", number, record, "content")
        parts = [record.get(field) for field in CODE_FIELDS]
        if isinstance(found, Document) and all(isinstance(part, str) and part for part in parts):
            found.id = f"{file.name}#{'/'.join(map(str, parts))}"
        yield found


def read_parquet(source: ParquetSource, file: SourceFile) -> Iterator[Document | Broken]:
    """A document a row, numbered from 1. Columns of bytes are left out; dates and decimals become strings."""
    number = 0
    with open_stream(file) as stream, pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False) as parquet:
        schema = parquet.schema_arrow
        columns = [field.name for field in schema if "binary" not in str(field.type)]
        if not {source.text_field, source.text_field.partition(".")[0]} & set(columns):
            raise ValueError(f"no column {source.text_field!r} of texts among {', '.join(schema.names)}")
        strange = [name for name in columns if not _is_json(schema.field(name).type)]
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            for record in batch.to_pylist():
                number += 1
                for name in strange:
                    record[name] = _as_json(record[name])
                yield document(file, f"row {number}", number, record, source.text_field, source.id_field)


def document(
    file: SourceFile, position: str, number: int, record: Object, text_field: str, id_field: str = ""
) -> Document | Broken:
    """A record as a document, `<file>#<its own id or its number>`; what stays of `record` is the metadata."""
    own: Any = number
    if id_field:
        own = take(record, id_field)
        if not isinstance(own, str | int) or isinstance(own, bool) or own == "":
            return Broken(f"{file.name}#{number}", position, f"no_id: field {id_field!r} is {_kind(own)}")
    id_ = f"{file.name}#{own}"
    text = take(record, text_field)
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n".join(text)
    if not isinstance(text, str):
        known = f"; there is {', '.join(map(repr, record))}" if text is None else ""
        return Broken(id_, position, f"no_text: field {text_field!r} is {_kind(text)}{known}")
    places = dict(file.origin)
    for place in ("url", "license"):
        if isinstance(record.get(place), str):
            places[place] = record.pop(place)
    return Document(id_, text, metadata=record, **places)


def take(record: Object, field: str) -> Any:
    """Remove and return a field; dots reach into objects unless a name has them. None where there is no such field."""
    while field not in record and "." in field:
        outer, _, field = field.partition(".")
        inner = record.get(outer)
        if not isinstance(inner, dict):
            return None
        record = inner
    return record.pop(field, None)


def _kind(value: Any) -> str:
    return "missing or null" if value is None else f"no string but {type(value).__name__}"


def _is_json(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in tests)


def _as_json(value: Any) -> Any:
    """A value of Arrow as JSON has it: NaN is null, maps are lists of pairs, dates are strings."""
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
