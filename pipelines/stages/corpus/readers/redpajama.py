"""RedPajama, both versions, told apart record by record.

v1 (seven slices; github.com/togethercomputer/RedPajama-Data, branch rp_v1): `text` and `meta`, which mirrors ship as an
object, as JSON in a string or as Python's repr of it. v2: `documents/*.json.gz` of `raw_content`, beside
`quality_signals/*.signals.json.gz` with a line for each of theirs; of these the signals of a whole document are kept,
as those of lines point into a text that rules may change.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import msgspec

from pipelines.stages.corpus.documents import Broken, Document, SourceFile, converted, plain
from pipelines.stages.corpus.readers import json_objects
from pipelines.stages.corpus.readers.json_objects import Object, objects
from pipelines.stages.corpus.readers.records import document
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading.files import UNREADABLE

DOCUMENTS, SIGNALS, SIGNALS_ENDING = "/documents/", "/quality_signals/", ".signals.json"
OF_LINES = "rps_lines_"
OWN_IDS = ("arxiv_id", "id")  # fields that identify a document in its slice


class RedPajamaSource(Source, frozen=True, tag="redpajama"):
    """RedPajama v1 (all seven slices) and v2 (documents beside their quality signals) in their published layouts."""

    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".json")

    def list_files(self) -> list[SourceFile]:
        """As every source's, without the quality signals, which are read beside their documents."""
        return [file for file in super().list_files() if SIGNALS_ENDING not in file.name]

    def ranges(self, file: SourceFile) -> list[SourceFile]:
        """As of other files of lines; v2's are read beside their signals, line by line, and stay whole."""
        is_whole = DOCUMENTS in file.path or SIGNALS_ENDING in file.name
        return [file] if is_whole else json_objects.ranges(file)

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """A document a line. Metadata holds `meta`, or v2's fields and `quality_signals` (or why they are missing)."""
        signals: _Signals | None = None
        for number, record in objects(file):
            if isinstance(record, Broken):
                yield record
            elif "raw_content" in record:
                signals = signals or _Signals(file)
                yield _converted(file, number, partial(_second_version, file, number, record, signals))
            else:
                yield _converted(file, number, partial(_first_version, file, number, record))


def _converted(file: SourceFile, number: int, convert: Callable[[], Document | Broken]) -> Document | Broken:
    return converted(f"{file.name}#{number}", f"{file.unit} {number}", convert)


def _second_version(file: SourceFile, number: int, record: Object, signals: _Signals) -> Document | Broken:
    record["quality_signals"] = signals.of(number, record)
    return document(file, f"{file.unit} {number}", number, record, "raw_content")


def _first_version(file: SourceFile, number: int, record: Object) -> Document | Broken:
    meta = _mapping(record.get("meta"))
    if meta is not None:
        del record["meta"]
        record = {**meta, **record}
    own_id = next((name for name in OWN_IDS if isinstance(record.get(name), str) and record[name]), "")
    return document(file, f"{file.unit} {number}", number, record, "text", own_id)


def _mapping(value: Any) -> Object | None:
    """A mapping that is one, or that a string holds as JSON or as Python writes it; its values are as JSON has them."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, ValueError):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):  # all that it raises for strange input
                return None
    return plain(value) if isinstance(value, dict) else None


class _Signals:
    """The quality signals of a file of documents, read beside it line by line."""

    def __init__(self, file: SourceFile) -> None:
        head, folder, tail = file.path.rpartition(DOCUMENTS)
        path = head + SIGNALS + re.sub(r"\.json(\.\w+)?$", r".signals\g<0>", tail)
        self._rows = objects(SourceFile(path.rpartition("/")[2], path, -1, ""))
        self._number = 0
        self._row: Object | Broken = {}
        self._problem = "" if folder else f"the file is in no folder {DOCUMENTS.strip('/')}"

    def of(self, number: int, record: Object) -> Object | str:
        """Signals of the whole document by name, or why there are none."""
        while self._number < number and not self._problem:
            try:
                self._number, self._row = next(self._rows)
            except StopIteration:
                self._problem = "the file of signals is shorter"
            except UNREADABLE as error:
                self._problem = getattr(error, "strerror", None) or str(error)
        if self._number != number:
            return f"missing: {self._problem or 'the line is empty'}"
        if isinstance(self._row, Broken):
            return f"missing: {self._row.reason}"
        url = (_mapping(self._row.get("metadata")) or {}).get("url")
        if url is not None and url != record.get("url"):
            return "missing: the line of signals is another page's"
        signals = _mapping(self._row.get("quality_signals")) or {}
        return {name: _value(spans) for name, spans in signals.items() if not name.startswith(OF_LINES)}


def _value(spans: Any) -> Any:
    """The value of a signal, published as `[[start, end, value]]`."""
    match spans:
        case [[_, _, value]]:
            return value
    return spans
