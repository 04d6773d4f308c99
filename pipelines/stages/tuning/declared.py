"""Which licence records, files and models of others are declared to stand under, as SPDX writes it.

A record's own word comes first, then the card beside a file (the front matter of README.md, as the Hub has it), then
the package that carries it.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.stages import licenses
from pipelines.stages.corpus.readers.huggingface import FRONT_MATTER
from pipelines.stages.corpus.readers.installed import license_of
from pipelines.stages.licenses import UNKNOWN
from pipelines.stages.tuning.conversation import is_unicode
from pipelines.stages.tuning.records import PACKAGE, located

FIELDS = ("license", "licence", "licenses", "license_name", "license_id", "spdx")  # whatever their capitals
NAMES = ("spdx_id", "spdx", "id", "key", "name", "license", "url")  # of a licence that is an object
CARD = "README.md"
OTHER = ("other", UNKNOWN)  # the Hub's words for what has no name there


def of_record(record: Mapping[str, Any]) -> str:
    """The licence that a record names, itself or in its metadata; `unknown` where it names none."""
    for place in (record, record.get("metadata"), record.get("meta")):
        if place and isinstance(place, Mapping):
            named = {field.lower(): value for field, value in place.items() if field.lower() in FIELDS}
            for field in FIELDS:
                if field in named and (found := _name(named[field])) != UNKNOWN:
                    return found
    return UNKNOWN


def of_file(path: str) -> str:
    """The licence of a file or folder of records: of the data set that it is in, or of the package that carries it."""
    file = located(path)
    own = (file,) if file.is_dir() else ()
    for folder in (*own, file.parent, file.parent.parent):  # a data set keeps its files beside its card, or in `data/`
        if (found := of_card(folder)) != UNKNOWN:
            return found
    if not path.startswith(PACKAGE):
        return UNKNOWN
    module = path.removeprefix(PACKAGE).partition("/")[0].partition(".")[0]
    for name in sorted(set(importlib.metadata.packages_distributions().get(module, ()))):
        return licenses.normalize(license_of(importlib.metadata.distribution(name)))
    return UNKNOWN


def of_model(folder: Path, gguf: str = "") -> str:
    """The licence that a model's own files name: the GGUF file, the card, or config.json."""
    if gguf:
        from gguf import GGUFReader

        fields = GGUFReader(str(folder / gguf)).fields
        named = [fields[key].contents() for key in ("general.license", "general.license.name") if key in fields]
        if (found := _first(named)) != UNKNOWN:
            return found
    if (found := of_card(folder)) != UNKNOWN or not (folder / "config.json").is_file():
        return found
    return of_record(json.loads((folder / "config.json").read_bytes()))


def of_card(folder: Path) -> str:
    """The licence in the front matter of a folder's README.md."""
    path = folder / CARD
    if not path.is_file():
        return UNKNOWN
    found = FRONT_MATTER.match(path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n"))
    try:
        card = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:  # a page that begins like a card, and says nothing of a licence that could be read
        return UNKNOWN
    if not isinstance(card, dict):
        return UNKNOWN
    return _first([card.get("license"), card.get("license_name"), card.get("licence")])


def _first(values: list[Any]) -> str:
    """The first that is a name; the Hub's `other` where nothing more is said."""
    named = [name for name in map(_name, values) if name != UNKNOWN]
    return next((name for name in named if name not in OTHER), named[0] if named else UNKNOWN)


def _name(value: Any) -> str:
    if isinstance(value, Mapping):
        return _first([value.get(name) for name in NAMES])
    if isinstance(value, list):
        return licenses.join(map(_name, value))
    return licenses.normalize(value) if isinstance(value, str) and is_unicode(value) else UNKNOWN
