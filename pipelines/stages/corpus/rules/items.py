"""Items of evaluation data: every string of a record, and the record's name `file:number`, counted from one.

A record is a line of JSON or text, an element of a JSON array, or a row of CSV (a header counts as a row).
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from cluster.core.errors import InputError
from pipelines.stages.corpus.rules import inputs

_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".zip")


class Item(NamedTuple):
    """A record of evaluation data."""

    name: str
    strings: tuple[str, ...]


def items(path: str, field: str) -> Iterator[Item]:
    """The items of a file, folder or glob. Raises InputError where nothing can be read."""
    urls = [url for url in inputs.find(path, field) if inputs.uncompressed_name(url).lower().endswith(_ENDINGS)]
    if not urls:
        raise InputError(f"{field}: no evaluation data in {path}", f"Known endings: {', '.join(_ENDINGS)}.")
    for url in urls:
        data = inputs.decompress(inputs.read(url, field), url, field)
        yield from _file(inputs.uncompressed_name(url), data, url.rsplit("/", 1)[-1], field)


def _file(path: str, data: bytes, name: str, field: str) -> Iterator[Item]:
    if path.lower().endswith(".zip"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for member in sorted(archive.namelist()):
                    if member.lower().endswith(_ENDINGS[:-1]):
                        yield from _file(member, archive.read(member), member.rsplit("/", 1)[-1], field)
        except zipfile.BadZipFile as error:
            raise InputError(f"{field}: {name} is no zip archive: {error}", "Fetch the file again.") from error
        return
    text = inputs.text(data, name, field)
    try:
        for number, record in _records(path.lower(), text):
            yield Item(f"{name}:{number}", tuple(_strings(record)))
    except (ValueError, csv.Error) as error:
        raise InputError(f"{field}: cannot read {name}: {error}", "Evaluation data must be whole.") from error


def _records(path: str, text: str) -> Iterator[tuple[int, Any]]:
    if path.endswith((".csv", ".tsv")):
        yield from enumerate(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path[-3] == "t" else ","), 1)
    elif path.endswith(".txt"):
        yield from enumerate(text.splitlines(), 1)
    elif path.endswith(".json") and text.lstrip().startswith("["):
        yield from enumerate(json.loads(text), 1)
    else:
        lines = text.split("\n")
        try:
            yield from [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
        except json.JSONDecodeError:
            if path.endswith(".json"):
                yield 1, json.loads(text)
            else:
                raise


def _strings(record: Any) -> Iterator[str]:
    if isinstance(record, str):
        yield record
    elif isinstance(record, dict):
        for value in record.values():
            yield from _strings(value)
    elif isinstance(record, list):
        for value in record:
            yield from _strings(value)
