"""Readers: a file in, documents out, and `Broken` for every record that cannot be read.

A reader is a function `read(source, file) -> Iterator[Document | Broken]` that streams: it never holds a file that may
be large. What it raises ends the file there, and the corpus says where and why (`UNREADABLE` lists what may be raised).
Found by the type of the source, and imported when first used.
"""

from __future__ import annotations

import functools
import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.sources import (
    CodeSource,
    HuggingFaceSource,
    InstalledPythonSource,
    JatsSource,
    JsonLinesSource,
    ParquetSource,
    RedPajamaSource,
    Source,
    TextSource,
    WarcSource,
    WikipediaSource,
)

Read = Callable[[Any, SourceFile], Iterator[Document | Broken]]
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error, ValueError)


class Reader(NamedTuple):
    """Where a reader is, and the files that it takes where the source does not say."""

    place: str
    suffixes: tuple[str, ...]
    listing: str = "pipelines.stages.corpus.reading.files:list_files"
    ranges: str = ""  # what cuts a large file into ranges, where the reader can begin in the middle of one


_RECORDS = "pipelines.stages.corpus.readers.records"
_RANGES = "pipelines.stages.corpus.readers.json_objects:ranges"
READERS: dict[type[Source], Reader] = {
    InstalledPythonSource: Reader(
        "pipelines.stages.corpus.readers.text:read", (".py",), "pipelines.stages.corpus.readers.installed:list_files"
    ),
    TextSource: Reader("pipelines.stages.corpus.readers.text:read", (".txt", ".md", ".py")),
    JatsSource: Reader(
        "pipelines.stages.corpus.readers.jats.reader:read", (".xml", ".nxml", ".tar.gz", ".tgz", ".txt")
    ),
    JsonLinesSource: Reader(f"{_RECORDS}:read_json", (".jsonl", ".json", ".ndjson"), ranges=_RANGES),
    RedPajamaSource: Reader(
        "pipelines.stages.corpus.readers.redpajama:read",
        (".jsonl", ".json"),
        "pipelines.stages.corpus.readers.redpajama:list_files",
        "pipelines.stages.corpus.readers.redpajama:ranges",
    ),
    ParquetSource: Reader(f"{_RECORDS}:read_parquet", (".parquet",)),
    CodeSource: Reader(f"{_RECORDS}:read_code", (".jsonl", ".json"), ranges=_RANGES),
    WarcSource: Reader("pipelines.stages.corpus.readers.warc.reader:read", (".warc", ".wet")),
    WikipediaSource: Reader("pipelines.stages.corpus.readers.wikipedia.reader:read", (".xml", ".bz2")),
    HuggingFaceSource: Reader(
        "pipelines.stages.corpus.readers.huggingface:read", (), "pipelines.stages.corpus.readers.huggingface:list_files"
    ),
}


def suffixes(source: Source) -> tuple[str, ...]:
    """The endings of the files that count at a source's path."""
    return source.suffixes or READERS[type(source)].suffixes


@functools.cache
def load(place: str) -> Any:
    """The object at `module:name`."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def read(source: Source, file: SourceFile) -> Iterator[Document | Broken]:
    """The documents of a file. Raises one of `UNREADABLE` where the file cannot be read any further."""
    found: Iterator[Document | Broken] = load(READERS[type(source)].place)(source, file)
    return found


def list_files(source: Source) -> list[SourceFile]:
    """All files of a source, sorted by name, large ones in ranges. Raises InputError where there are none."""
    reader = READERS[type(source)]
    found: list[SourceFile] = load(reader.listing)(source)
    if not reader.ranges:
        return found
    return [piece for file in found for piece in load(reader.ranges)(file)]
