"""Records that carry a text: JSON, Parquet, and source code in CodeParrot's layout (JSON lines of the GitHub dump).

Every field but the text goes to the metadata; `url` and `license` go to their own places, lists joined.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.stages.corpus.documents import Broken, Document, SourceFile, converted, plain
from pipelines.stages.corpus.readers.json_objects import Object, objects
from pipelines.stages.corpus.readers.places import of_license, of_url
from pipelines.stages.corpus.readers.sources import CodeSource, JsonLinesSource, ParquetSource
from pipelines.stages.corpus.reading.files import open_stream

BATCH_ROWS = 64  # rows of a Parquet file in memory at once
CODE_FIELDS = ("repo_name", "path")
_PLACES: dict[str, Callable[[Any], str]] = {"url": of_url, "license": of_license}


def read_json(source: JsonLinesSource, file: SourceFile) -> Iterator[Document | Broken]:
    """A document an object; `Broken` for a line that is no JSON and for an object without a text."""
    for number, record in objects(file):
        if isinstance(record, Broken):
            yield record
        else:
            yield _converted(file, number, record, source.text_field, source.id_field)


def read_code(source: CodeSource, file: SourceFile) -> Iterator[Document | Broken]:
    """A document a file of a repository: `<file>#<repo_name>/<path>`."""
    for number, record in objects(file):
        if isinstance(record, Broken):
            yield record
            continue
        parts = [record.get(field) for field in CODE_FIELDS]
        found = _converted(file, number, record, "content")
        if isinstance(found, Document) and all(isinstance(part, str) and part for part in parts):
            found.id = f"{file.name}#{'/'.join(map(str, parts))}"
        yield found


def read_parquet(source: ParquetSource, file: SourceFile) -> Iterator[Document | Broken]:
    """A document a row, numbered from 1. Columns of bytes are left out, but for those of texts, ids, URLs and licences;
    dates and decimals become strings. Of columns of one name the first counts.
    """
    number = 0
    with (
        open_stream(file) as stream,
        _seekable(stream) as whole,
        pq.ParquetFile(whole, buffer_size=1 << 20, pre_buffer=False) as parquet,
    ):
        schema = parquet.schema_arrow
        wanted = {field.partition(".")[0] for field in (source.text_field, source.id_field)} | {"url", "license"}
        wanted |= {source.text_field, source.id_field}
        chosen: dict[str, int] = {}
        for place, field in enumerate(schema):
            if field.name in wanted or "binary" not in str(field.type):
                chosen.setdefault(field.name, place)
        if not {source.text_field, source.text_field.partition(".")[0]} & set(chosen):
            raise ValueError(f"no column {source.text_field!r} of texts among {', '.join(schema.names)}")
        # Columns of one name cannot be asked for by it.
        columns = list(chosen) if len(set(schema.names)) == len(schema) else None
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            places = {name: batch.schema.get_field_index(name) if columns else chosen[name] for name in chosen}
            for record in _rows({name: batch.column(place) for name, place in places.items()}, batch.num_rows):
                number += 1
                yield _converted(file, number, record, source.text_field, source.id_field, "row")


def _seekable(stream: IO[bytes]) -> IO[bytes]:
    """The stream, or a copy on the disk of one that is decompressed on the way: Parquet is read from its end."""
    if stream.seekable():
        return stream
    whole = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    shutil.copyfileobj(stream, whole)
    whole.seek(0)
    return whole


def _rows(columns: dict[str, pa.Array], count: int) -> Iterator[Object]:
    """The rows of a batch as JSON has them."""
    lists = [_values(column) for column in columns.values()]
    for row in range(count):
        yield dict(zip(columns, (values[row] for values in lists), strict=True))


def _values(column: pa.Array) -> list[Any]:
    """The values of a column. One that Python cannot hold, such as a date beyond 9999, is as Arrow writes it."""
    try:
        return [plain(value) for value in column.to_pylist()] if not _is_json(column.type) else column.to_pylist()
    except Exception:  # one value that is odd, in one of Arrow's many ways
        return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> Any:
    try:
        return plain(cell.as_py())
    except UnicodeDecodeError as error:
        return plain(error.object)
    except Exception:
        try:
            return plain(cell.cast(pa.string()).as_py())
        except pa.ArrowException:
            return None


def _converted(
    file: SourceFile, number: int, record: Object, text_field: str, id_field: str = "", unit: str = ""
) -> Document | Broken:
    position = f"{unit or file.unit} {number}"
    return converted(
        f"{file.name}#{number}", position, lambda: document(file, position, number, record, text_field, id_field)
    )


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
    for place, fields in (("url", ("url", "urls")), ("license", ("license", "licenses"))):
        field = next((name for name in fields if record.get(name) is not None), fields[0])
        value = record.get(field)
        if found := _PLACES[place](value):
            places[place] = found
        if isinstance(value, str):
            del record[field]  # what is more than a string stays in the metadata, too
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
