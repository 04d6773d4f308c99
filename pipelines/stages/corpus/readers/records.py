"""Records that carry a text, from whatever file: the text, and what else they say, as a document.

Every field but the text goes to the metadata; `url` and `license` go to their own places, lists joined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.stages.corpus.documents import Broken, Document, SourceFile, converted
from pipelines.stages.corpus.readers.json_objects import Object
from pipelines.stages.corpus.readers.places import of_license, of_url
from pipelines.stages.corpus.reading.encodings import Decoded, decode, hint, noted
from pipelines.stages.corpus.tally import LIKELY_ENCODING

LICENSES = (  # the last two as The Stack has them
    *("license", "licenses", "licence", "License", "LICENSE", "Licence", "spdx_license"),
    *("max_stars_repo_licenses", "detected_licenses"),
)
_PLACES: dict[str, Callable[[Any], str]] = {"url": of_url, "license": of_license}


def from_record(
    file: SourceFile, number: int, record: Object, text_field: str, id_field: str = "", unit: str = ""
) -> Document | Broken:
    """Record `number` of a file as a document; `Broken` where it cannot be made one. `unit`: what is counted."""
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
    if isinstance(text, bytes | list):
        try:
            text = _joined(text, record)
        except ValueError as error:
            return Broken(id_, position, f"no_text: field {text_field!r} is {error}")
    if not isinstance(text, str):
        known = f"; there is {', '.join(map(repr, record))}" if text is None and record else ""
        return Broken(id_, position, f"no_text: field {text_field!r} is {_kind(text)}{known}")
    places = dict(file.origin)
    for place, fields in (("url", ("url", "urls")), ("license", LICENSES)):
        field = next((name for name in fields if record.get(name) is not None), fields[0])
        value = record.get(field)
        if found := _PLACES[place](value):
            places[place] = found
        if isinstance(value, str):
            del record[field]  # what is more than a string stays in the metadata, too
    return Document(id_, text, metadata=record, **places)


def _joined(text: Any, record: Object) -> Any:
    """Bytes as text, and parts of a text as lines; what was found of their encoding is added to the record. Raises
    ValueError for bytes that are no text.
    """
    parts = text if isinstance(text, list) else [text]
    if not all(isinstance(part, str | bytes) for part in parts):
        return text
    texts = []
    for part in parts:
        found = decode(part) if isinstance(part, bytes) else Decoded(part, "utf-8", 0)
        texts.append(found.text)
        for name, value in noted(found.encoding, found.replaced).items():
            record.setdefault(name, value)
        if found.replaced and (likely := hint(part, found)):
            record.setdefault(LIKELY_ENCODING, likely)
    return "\n".join(texts)


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
