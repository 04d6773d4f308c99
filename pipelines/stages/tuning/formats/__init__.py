"""The formats in which the world publishes conversations, by name. Each is one layout of records, or several.

To add one, write a module with a `Layout` and enter it in `LAYOUTS`, where records are known by what is in them, and in
`FORMATS` under its name (docs/first-change.md). A new pair of columns is a line in pairs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.stages.tuning.conversation import BadRecord, Conversation
from pipelines.stages.tuning.formats import coig, function_calls, instances, moss, oasst, packed, pairs, prompts
from pipelines.stages.tuning.formats.chat import MESSAGES, SHAREGPT
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.record import Record

AUTO, PROMPTS = "auto", "prompts"
MANY = 10_000  # kinds of records that are remembered

LAYOUTS = (  # a record is of the first that it fits
    oasst.TREES,
    oasst.ROWS,
    moss.LAYOUT,
    MESSAGES,
    SHAREGPT,
    function_calls.XLAM,
    function_calls.GLAIVE,
    instances.LAYOUT,
    coig.EXAMS,
    coig.ROUNDS,
    coig.TRANSLATED,
    pairs.ICLINIQ,
    packed.PACKED,
    pairs.ALPACA,
    pairs.DOLLY,
    pairs.PROMPT,
    pairs.QUESTION,
    pairs.ADVERTISEGEN,
    pairs.FIREFLY,
    pairs.INPUT,
    packed.TEXT,
)

_DOCTOR = (pairs.ICLINIQ, pairs.ALPACA)
FORMATS: dict[str, tuple[Layout, ...]] = {
    AUTO: LAYOUTS,
    "messages": (MESSAGES, SHAREGPT),
    "sharegpt": (SHAREGPT, MESSAGES),
    "alpaca": (pairs.ALPACA,),
    "prompt-response": (pairs.PROMPT,),
    "prompt-completion": (pairs.PROMPT,),
    "question-answer": (pairs.QUESTION,),
    "input-output": (pairs.INPUT,),
    "firefly": (pairs.FIREFLY,),
    "advertisegen": (pairs.ADVERTISEGEN,),
    "dolly": (pairs.DOLLY, pairs.PROMPT),
    "self-instruct": (instances.LAYOUT,),
    "moss": (moss.LAYOUT, SHAREGPT, packed.TEXT),
    "belle": (SHAREGPT, instances.LAYOUT, packed.PACKED, pairs.QUESTION, pairs.ALPACA),
    "coig": (coig.EXAMS, coig.ROUNDS, coig.TRANSLATED, SHAREGPT, pairs.ALPACA),
    "chatdoctor": _DOCTOR,
    "genmedgpt": _DOCTOR,
    "healthcaremagic": _DOCTOR,
    "icliniq": _DOCTOR,
    "huatuo": (packed.PACKED, pairs.ALPACA),
    "cmtmedqa": (pairs.ALPACA,),
    "medicalgpt": (SHAREGPT, pairs.ALPACA),
    "oasst": (oasst.TREES, oasst.ROWS, MESSAGES, SHAREGPT, pairs.ALPACA),
    "guanaco": (packed.TEXT,),
    "tool-calls": (function_calls.XLAM, function_calls.GLAIVE, SHAREGPT, MESSAGES),
    "glaive": (function_calls.GLAIVE, SHAREGPT),
    "xlam": (function_calls.XLAM,),
    PROMPTS: (prompts.LAYOUT,),
}
ABOUT = ("source", "license")  # fields about a record, whatever its format
COLUMNS = (  # what `columns` maps to
    *("prompt", "response", "context", "system", "history", "messages", "tools", "reasoning_content", "weight"),
    *ABOUT,
)


class Found(NamedTuple):
    """What a record is: its layout, its conversations, what there is to count, and the names of the fields left out."""

    layout: str
    conversations: list[Conversation]
    notes: list[str]
    left_out: list[str]


class NoFormat(BadRecord):
    """The record is of no layout of the format."""


class Reader:
    """Reads records of a format, or of columns that the user mapped."""

    def __init__(self, name: str, columns: Mapping[str, str] | None = None) -> None:
        self.name, self.columns = name, dict(columns or {})
        if self.columns:
            mapped = MESSAGES if "messages" in self.columns else pairs.pairs("columns", pairs.MAPPED)
            self.layouts: tuple[Layout, ...] = (mapped,)
        else:
            self.layouts = FORMATS[name]
        self._possible: dict[tuple[str, ...], list[Layout]] = {}  # by the names of a record's fields

    def read(self, fields: Mapping[str, Any]) -> Found:
        """The conversations of a record. Raises BadRecord; NoFormat where it is of another format."""
        record = Record(fields)
        if self.columns:
            self._map(record)
        layout = next((layout for layout in self._candidates(record) if layout.fits(record)), None)
        if layout is None:
            raise NoFormat(self._unknown(record))
        found = layout.read(record)
        left_out = [key for key, value in record.items() if value not in (None, "", [], {})]
        return Found(layout.name, found, record.notes, left_out)

    def _candidates(self, record: Record) -> list[Layout]:
        names = tuple(record)
        if names not in self._possible:
            if len(self._possible) > MANY:
                self._possible.clear()
            self._possible[names] = [layout for layout in self.layouts if not record.keys().isdisjoint(layout.fields)]
        return self._possible[names]

    def _map(self, record: Record) -> None:
        known = _listed(record)
        values = {name: taken(record, column) for name, column in self.columns.items() if name not in ABOUT}
        for name, value in values.items():
            if value is None and name in ("prompt", "response", "messages"):
                raise NoFormat(f"no known column: {self.columns[name]!r} (for {name}) is not among {known}")
        record.update(values)

    def _unknown(self, record: Record) -> str:
        if record.has("chosen", "rejected"):
            return "pairs of a better and a worse answer: a `preferences` step reads them"
        if self.name == AUTO:
            return f"no known format: the fields are {_listed(record)}"
        return f"not of format {self.name}: the fields are {_listed(record)}"


def guess(fields: Mapping[str, Any]) -> str:
    """The name of the layout that a record seems to have; empty where it has none that is known."""
    record = Record(dict(fields))
    return next((layout.name for layout in LAYOUTS if layout.fits(record)), "")


def taken(record: dict[str, Any], column: str) -> Any:
    """Remove and return a column; dots reach into objects unless a name has them."""
    if column in record or "." not in column:
        return record.pop(column, None)
    outer, _, rest = column.partition(".")
    inner = record.get(outer)
    return taken(inner, rest) if isinstance(inner, dict) else None


def _listed(record: Mapping[str, Any]) -> str:
    names = [repr(key) for key in list(record)[:12]]
    return ", ".join(names) + (", ..." if len(record) > len(names) else "") if names else "none"
