"""The files that makers start from, small enough to be held: objects of JSON, and tables in CSV."""

from __future__ import annotations

import csv
import json
from typing import Any

from cluster.core.errors import InputError
from pipelines.stages.tuning.records import located


def read_objects(path: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON array or of JSON lines, each with its line (of an array: 1).

    Raises InputError, with the line, for a file that cannot be read or holds anything else.
    """
    text = _text(path)
    if text.lstrip().startswith("["):
        entries = [(1, entry) for entry in _parsed(path, 1, text)]
    else:
        entries = [(n, _parsed(path, n, line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    for line, entry in entries:
        if not isinstance(entry, dict):
            raise InputError(f"{path}, line {line}: {type(entry).__name__}, where an object belongs")
    if not entries:
        raise InputError(f"{path} holds no record", "Give a JSON array, or JSON lines.")
    return entries


def read_table(path: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a head, by column, each with the line that it ends at; cells may hold line ends.

    Raises InputError, with the line, for a file that cannot be read and for a row of another length than the head.
    """
    reader = csv.reader(_text(path).splitlines(keepends=True), strict=True)
    rows = []
    try:
        head = next(reader, [])
        for row in reader:
            if row and len(row) != len(head):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(row)} cells under {len(head)} columns", "Quote its cells."
                )
            if row:
                rows.append((reader.line_num, dict(zip(head, row, strict=True))))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}", "Give a table in CSV, in UTF-8.") from None
    if not rows:
        raise InputError(f"{path} holds no row below its head", "Give a table in CSV.")
    return rows


def _text(path: str) -> str:
    try:
        return located(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", "Give a readable file.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {error}", "Save it in UTF-8.") from None


def _parsed(path: str, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {line}: not JSON: {error}", "Give a JSON array, or JSON lines.") from None
