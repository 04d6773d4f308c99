"""Columns of Arrow as rows of what JSON has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipelines.stages.corpus.documents import plain
from pipelines.stages.corpus.readers.json_objects import Object


def rows(columns: dict[str, pa.Array], count: int, text: str = "") -> Iterator[Object]:
    """The rows of a batch as JSON has them; the column `text` may hold bytes, whose encoding is not known here."""
    lists = [_values(column, is_text=name == text) for name, column in columns.items()]
    for row in range(count):
        yield dict(zip(columns, (values[row] for values in lists), strict=True))


def _values(column: pa.Array, is_text: bool) -> list[Any]:
    """The values of a column. One that Python cannot hold, such as a date beyond 9999, is as Arrow writes it."""
    try:
        values: list[Any] = column.to_pylist()
        return values if is_text or _is_json(column.type) else [plain(value) for value in values]
    except Exception:  # one value that is odd, in one of Arrow's many ways
        return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> Any:
    if isinstance(cell, pa.StructScalar) and cell.is_valid:  # of fields of one name the first counts
        fields: dict[str, Any] = {}
        for place, field in enumerate(cell.type):
            fields.setdefault(field.name, _value(cell[place]))
        return fields
    try:
        return plain(cell.as_py())
    except UnicodeDecodeError as error:
        return plain(error.object)
    except Exception:
        try:
            return plain(cell.cast(pa.string()).as_py())
        except pa.ArrowException:
            return None


def _is_json(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in tests)
