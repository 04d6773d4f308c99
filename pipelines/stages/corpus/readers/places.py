"""Licence and address of a record, whose fields hold one, a list of them, or objects that name them."""

from __future__ import annotations

import json
from typing import Any

NAMES = ("spdx_id", "spdx", "identifier", "id", "key", "name", "license", "url", "href", "link")  # of one in an object


def of_license(value: Any) -> str:
    """The licence, or all of several as an expression of SPDX (`MIT AND Apache-2.0`): each of them binds."""
    return " AND ".join(strings(value))


def of_url(value: Any) -> str:
    """The address, the first of several."""
    return next(iter(strings(value)), "")


def strings(value: Any) -> list[str]:
    """The strings of a string, of an object that names something, or of a list of such, each once."""
    if isinstance(value, str):
        found = _listed(value) or [value]
    elif isinstance(value, dict):
        found = next((strings(value[name]) for name in NAMES if value.get(name)), [])
    elif isinstance(value, list | tuple):
        found = [text for item in value for text in strings(item)]
    elif hasattr(value, "tolist"):  # an array
        found = strings(value.tolist())
    else:
        found = []
    return list(dict.fromkeys(text.strip() for text in found if text.strip()))


def _listed(text: str) -> list[str]:
    """The strings of a list that was written into a cell, as JSON or as Python writes it; empty for another text."""
    if not text.startswith("["):
        return []
    try:
        value = json.loads(text.replace("'", '"'))
    except ValueError:
        return []
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
