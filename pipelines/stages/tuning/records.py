"""Records out of a file that others made: a JSON array or JSON lines, plain or gzipped, whatever its name says.

Every record knows its number and its line, so that a bad one can be named. Files of this kind are read whole; a
larger one belongs cut into parts.
"""

from __future__ import annotations

import gzip
import importlib.resources
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster.core.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
PACKAGE = "package:"
BETWEEN = re.compile(r"[\s,]*")

T = TypeVar("T")


class BadRecord(Exception):
    """Why a record is not of its format."""


@dataclass(frozen=True)
class Record:
    """One record of a file; `value` is bytes where a line has yet to be read as JSON."""

    number: int
    line: int
    value: Any


@dataclass(frozen=True)
class Rejected:
    """A record that is not of its format, and why."""

    number: int
    line: int
    reason: str


def read_records(
    path: str, read: Callable[[dict[str, Any]], T], max_bad_fraction: float, field: str
) -> tuple[list[tuple[int, T]], list[Rejected]]:
    """`read` applied to each record of a file, with its number, and the records that it refused by BadRecord.

    Raises InputError for a file that cannot be read, and where more than `max_bad_fraction` (which belongs to the spec
    named in `field`) were refused.
    """
    good: list[tuple[int, T]] = []
    bad: list[Rejected] = []
    for record in _records(path):
        try:
            good.append((record.number, read(_mapping(record.value))))
        except BadRecord as error:
            bad.append(Rejected(record.number, record.line, str(error)))
    total = len(good) + len(bad)
    if not total:
        raise InputError(f"{path} holds no record", f"Check {field}.path.")
    if len(bad) > max_bad_fraction * total:
        raise InputError(
            f"{path}: {len(bad)} of {total} records cannot be used, the first in line {bad[0].line}: {bad[0].reason}",
            f"Check the file's format, or raise {field}.max_bad_fraction.",
        )
    return good, bad


def located(path: str) -> Path:
    """The file of a path. `package:NAME/FILE` is one that a Python package carries, wherever it is installed, so that
    a spec which names it is the same on every machine."""
    if not path.startswith(PACKAGE):
        return Path(path)
    name, _, file = path.removeprefix(PACKAGE).partition("/")
    try:
        return Path(str(importlib.resources.files(name).joinpath(file)))
    except (ImportError, ValueError):
        raise InputError(f"{path}: there is no Python package {name!r}", "Install it, or give a file.") from None


def _records(path: str) -> Iterator[Record]:
    try:
        data = located(path).read_bytes()
        if data.startswith(GZIP_MAGIC):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: {error}", "Give a readable file of JSON, plain or gzipped.") from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.lstrip().startswith(b"["):
        yield from _array(path, data)
        return
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    for number, (line_number, line) in enumerate(lines, 1):
        yield Record(number, line_number, line)


def _array(path: str, data: bytes) -> Iterator[Record]:
    """The elements of a JSON array, one at a time, for the sake of their lines."""
    decoder = json.JSONDecoder()
    number, line, counted = 0, 1, 0
    try:
        text = data.decode()
        position = text.index("[") + 1
        while True:
            begun, position = position, _skip(text, position)
            line, counted = line + text.count("\n", counted, position), position
            commas = text.count(",", begun, position)
            if commas > min(number, 1):
                raise ValueError("a value is missing between two commas")
            if text[position : position + 1] == "]":
                break
            if number and not commas and position < len(text):
                raise ValueError("a comma is missing in front of it")
            value, position = decoder.raw_decode(text, position)
            number += 1
            yield Record(number, line, value)
        if text[position + 1 :].strip():
            raise ValueError("text follows the array; is it JSON lines of arrays?")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the JSON array breaks in the record at line {line}: {error}") from None


def _skip(text: str, position: int) -> int:
    between = BETWEEN.match(text, position)
    return between.end() if between else position


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRecord(f"not an object but {type(value).__name__}")
    return value
