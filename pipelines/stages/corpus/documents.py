"""A document on its way through the corpus, and what is said of one that cannot be read."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cluster.core.errors import TrunklineError

T = TypeVar("T")

COLUMNS = ("id", "text", "source", "license", "url", "metadata")
UNKNOWN = "unknown"
MAX_DEPTH = 100  # of metadata that is not JSON already
# Reasons of records that are whole and no documents: set aside and counted as what is broken is, but no sign of damage.
NO_DOCUMENTS = frozenset(
    {"redirect", "namespace", "model", "not_html", "not_text", "http_status", "revisit", "continuation", "record_type"}
)

_HALF = re.compile("[\ud800-\udfff]")  # half of a pair: no text, and nothing that UTF-8 could hold
REPLACEMENT = "\ufffd"


class Document:
    """One text and what is known of it. Rules may change `text` and add to `metadata` (JSON values only).

    `id` names the document for ever and holds nothing of this machine: the file's name below the source's path, then
    `#` and the record's own id or number where a file holds several.
    """

    __slots__ = ("_derived", "_text", "id", "license", "metadata", "source", "url")

    def __init__(
        self,
        id: str,
        text: str,
        *,
        source: str = "",
        license: str = "",
        url: str = "",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.source = source
        self.license = license
        self.url = url
        self.metadata: dict[str, Any] = {} if metadata is None else metadata
        self._text = text
        self._derived: dict[Callable[[str], Any], Any] = {}

    @property
    def text(self) -> str:
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        if text != self._text:
            self._text = text
            self._derived = {}

    def derive(self, function: Callable[[str], T]) -> T:
        """`function(text)`, computed once for as long as the text stays as it is: words, lines, n-grams."""
        if function not in self._derived:
            self._derived[function] = function(self._text)
        return self._derived[function]

    @classmethod
    def of_row(cls, row: dict[str, str]) -> Document:
        """A document back from a row of `COLUMNS`."""
        text, metadata = row["text"], json.loads(row["metadata"])
        return cls(row["id"], text, source=row["source"], license=row["license"], url=row["url"], metadata=metadata)

    def row(self) -> dict[str, str]:
        """The document as a row of `COLUMNS`."""
        return {
            "id": self.id,
            "text": self._text,
            "source": self.source,
            "license": self.license or UNKNOWN,
            "url": self.url,
            "metadata": _json(self.metadata),
        }

    def mend(self) -> None:
        """Make halves of surrogate pairs, which no file could hold, U+FFFD; they are counted in the metadata."""
        try:
            self._text.encode()
        except UnicodeEncodeError:
            self.text, halves = _HALF.subn(REPLACEMENT, self._text)
            known = self.metadata.get("replacement_characters")
            self.metadata["replacement_characters"] = halves + (known if isinstance(known, int) else 0)


def _json(metadata: dict[str, Any]) -> str:
    """Metadata as JSON, whatever is in it."""
    for value in (metadata, plain(metadata)):
        try:
            text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
            text.encode()
        except (TypeError, ValueError, RecursionError):
            continue
        return text
    raise ValueError(f"metadata that is no JSON: {sorted(map(str, metadata))}")


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it: keys are strings, sets lists, bytes texts; NaN is null; what else there is, a string."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return _HALF.sub(REPLACEMENT, value)
        case float():
            return value if math.isfinite(value) else None
        case bytes() | bytearray():
            return bytes(value).decode("utf-8", "replace")
        case _ if depth > MAX_DEPTH:
            return "nested too deeply"
        case dict():
            return {plain(key) if isinstance(key, str) else str(key): plain(of, depth + 1) for key, of in value.items()}
        case set() | frozenset():
            return sorted((plain(member, depth + 1) for member in value), key=repr)
        case list() | tuple():
            return [plain(member, depth + 1) for member in value]
    return _HALF.sub(REPLACEMENT, str(value))


@dataclass(frozen=True)
class Broken:
    """A record that cannot be read: `id` as a document's would be, where in the file it lies, and why."""

    id: str
    position: str  # "line 12", "byte 4096", "member PMC1.nxml"; empty for the whole file
    reason: str
    source: str = ""
    ends_file: bool = False  # the file breaks off there: what may have followed is lost too, and nobody knows how much

    @property
    def is_damage(self) -> bool:
        """Whether something is wrong with it, and not merely no document."""
        return self.reason.partition(":")[0] not in NO_DOCUMENTS


def converted(id: str, position: str, convert: Callable[[], Document | Broken]) -> Document | Broken:
    """What `convert` makes of a record. One that it fails on, in whatever way, is `Broken`, and costs itself only."""
    try:
        return convert()
    except (TrunklineError, MemoryError):
        raise
    except Exception as error:
        return Broken(id, position, f"failed: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: `name` is its identity, `path` where it lies (a local path or an fsspec URL).

    Of a large file of lines it may be a range: those that begin at bytes [start, stop).
    """

    name: str
    path: str
    size_bytes: int
    stamp: str  # changes when the file does: time of change or entity tag
    source: int = 0  # which of the corpus's sources
    start: int = 0
    stop: int = 0  # 0: the whole file
    origin: dict[str, str] = field(default_factory=dict, compare=False)  # what its source knows: license, url, source

    @property
    def unit(self) -> str:
        """What the records of a file of lines are numbered by."""
        return "byte" if self.stop else "line"


def keyed_hash(seed: int, purpose: str, value: str) -> int:
    """A 64-bit hash of a value for one purpose of one seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}/{value}".encode(), digest_size=8).digest(), "big")
