"""Records out of files that others made: JSON lines, a JSON array, an object a file, CSV, Parquet, whatever the ending.

Compressed or not, in any encoding, streamed: memory does not grow with a file. Every record knows its number and its
line, so that a bad one can be named.
"""

from __future__ import annotations

import importlib.resources
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from cluster.core.errors import InputError
from pipelines.stages.corpus.documents import SourceFile
from pipelines.stages.corpus.readers.json_objects import layout, values
from pipelines.stages.corpus.reading.encodings import likely
from pipelines.stages.corpus.reading.files import MAX_DOCUMENT_BYTES, UNREADABLE, find, lines, local_file
from pipelines.stages.tuning import tables
from pipelines.stages.tuning.conversation import BadRecord
from pipelines.stages.tuning.streams import opened

PACKAGE = "package:"
ENDINGS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
KEY = re.compile(rb'"\s*:')

T = TypeVar("T")


class Row(NamedTuple):
    """One record of a file: its number and its line, from 1; `value` is text where it is none, and says why."""

    number: int
    line: int
    value: dict[str, Any] | str


class Rejected(NamedTuple):
    """A record that is not of its format, and why."""

    number: int
    line: int
    reason: str


def records(file: SourceFile, encoding: str = "") -> Iterator[Row]:
    """The records of a file. Raises InputError where it cannot be read, or is damaged as a whole."""
    number = 0
    try:
        with opened(file, encoding) as stream:
            head = stream.peek(1)
            if tables.is_table(file.name, head):
                found = tables.rows(file, stream, head)
            elif begun := layout(head):
                found = _values(stream, begun.start(1), begun[1] == b"[")
            else:
                found = ((line, parsed(data)) for line, data in lines(stream) if not data.isspace())
            for line, value in found:
                number += 1
                yield Row(number, line, value)
    except UNREADABLE as error:
        raise InputError(f"{file.path}: {_said(error)}", "Give a whole file of JSON, CSV or Parquet.") from error


def _values(stream: io.BufferedReader, start: int, is_array: bool) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The values of an array, or objects that are written over several lines. A broken array is a broken file; of
    objects, what comes before the broken one counts."""
    line = 1
    try:
        for _, line, data in values(stream, start, is_array):
            yield line, parsed(data)
    except ValueError as error:
        if is_array:
            raise
        yield line, f"not JSON: {error}; what follows is not read"


def parsed(data: bytes) -> dict[str, Any] | str:
    """The object of some JSON, or why there is none that is sure: an object with two values for a key is refused."""
    if len(data) > MAX_DOCUMENT_BYTES:
        return f"record too large: more than {MAX_DOCUMENT_BYTES} bytes"
    try:
        try:
            value = msgspec.json.decode(data)
        except (msgspec.MsgspecError, ValueError):  # NaN, control characters in strings, half surrogate pairs
            value = json.loads(data.decode(), strict=False, parse_constant=lambda _: None)
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start + 1}{_encoding_of(data)}"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(value, dict):
        return f"not an object: {type(value).__name__}"
    if len(KEY.findall(data)) != _keys(value) and (twice := _twice(data)):
        return f"duplicate key: {twice!r} stands twice in one object"
    return value


def read_records(
    path: str, read: Callable[[dict[str, Any]], T], max_bad_fraction: float, field: str
) -> tuple[list[tuple[int, T]], list[Rejected]]:
    """`read` applied to each record of the files at a path, with its number among all, and the records that it refused
    by BadRecord.

    Raises InputError for a file that cannot be read, and where more than `max_bad_fraction` (which belongs to the spec
    named in `field`) were refused.
    """
    good: list[tuple[int, T]] = []
    bad: list[Rejected] = []
    files = files_at(path, f"{field}.path")
    for number, (file, row) in enumerate(((each, row) for each in files for row in records(each)), 1):
        try:
            if isinstance(row.value, str):
                raise BadRecord(row.value)
            good.append((number, read(row.value)))
        except BadRecord as error:
            bad.append(Rejected(number, row.line, f"{error}{f' ({file.name})' if len(files) > 1 else ''}"))
    total = len(good) + len(bad)
    if not total:
        raise InputError(f"{path} holds no record", f"Check {field}.path.")
    if len(bad) > max_bad_fraction * total:
        raise InputError(
            f"{path}: {len(bad)} of {total} records cannot be used, the first in line {bad[0].line}: {bad[0].reason}",
            f"Check the file's format, or raise {field}.max_bad_fraction.",
        )
    return good, bad


def files_at(path: str, field: str) -> list[SourceFile]:
    """The file at a path, or those of a folder or a glob, here or at an fsspec URL.

    Raises InputError about the field of the spec where there are none.
    """
    place = located(path)
    if path.startswith(PACKAGE) or place.is_file():
        return [local_file(place.name, str(place))]
    try:
        return find(path, ENDINGS)
    except InputError as error:
        raise InputError(error.message.replace("corpus.sources", field), error.remedy) from error


def located(path: str) -> Path:
    """The file of a path. `package:NAME/FILE` is one that a Python package carries, wherever it is installed, so that
    a spec which names it is the same on every machine."""
    if not path.startswith(PACKAGE):
        return Path(path.removeprefix("file://"))
    name, _, file = path.removeprefix(PACKAGE).partition("/")
    try:
        return Path(str(importlib.resources.files(name).joinpath(file)))
    except (ImportError, ValueError):
        raise InputError(f"{path}: there is no Python package {name!r}", "Install it, or give a file.") from None


def _keys(value: Any) -> int:
    """How many keys all objects in a value have."""
    if isinstance(value, dict):
        return len(value) + sum(_keys(each) for each in value.values() if isinstance(each, dict | list))
    return sum(_keys(each) for each in value if isinstance(each, dict | list))


def _twice(data: bytes) -> str:
    """A key that stands twice in one object of some JSON; empty where none does."""
    found: list[str] = []

    def seen(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            found.append(next(name for name in names if names.count(name) > 1))
        return value

    json.loads(data.decode(), strict=False, object_pairs_hook=seen)
    return found[0] if found else ""


def _encoding_of(data: bytes) -> str:
    name = likely(data)
    return f"; it may be {name}: set `encoding`" if name and name != "utf-8" else ""


def _said(error: BaseException) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
