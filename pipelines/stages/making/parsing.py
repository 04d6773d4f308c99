"""Records out of what a model wrote: the JSON objects in a text, whatever stands around them; and fields of records."""

from __future__ import annotations

import json
import re
from typing import Any

_DECODER = json.JSONDecoder()
THOUGHTS = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)  # of servers that do not take them out
NOTHING = frozenset({"", "n/a", "na", "none", "null", "<noinput>", "noinput", "无", "空"})


class Unreadable(Exception):
    """Why a record cannot be used."""


def objects(text: str) -> tuple[list[dict[str, Any]], bool]:
    """The JSON objects in a text, in order, and whether it ends within one that was cut off or is broken.

    In an array, in an object that holds nothing else (`{"tasks": [...]}`), a line each, in a fence of code, with words
    around them. What a model thinks before is no part of it.
    """
    text = THOUGHTS.sub("", text)
    found: list[dict[str, Any]] = []
    position, broken = 0, False
    while (start := text.find("{", position)) >= 0:
        try:
            value, position = _DECODER.raw_decode(text, start)
            found += _within(value)
            broken = False
        except (ValueError, RecursionError):
            position, broken = start + 1, True
    return found, broken


def _within(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of the list that is all an object holds; else the object."""
    inner = next(iter(value.values())) if len(value) == 1 else None
    if isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner):
        return inner
    return [value]


def said(record: dict[str, Any], field: str) -> str:
    """The text in a field, without blanks around it. Raises Unreadable where there is none."""
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unreadable(f"unparseable: {field} is {type(value).__name__ if field in record else 'missing'}")
    return str(value).strip()


def said_or_nothing(record: dict[str, Any], field: str) -> str:
    """The text in a field that may be missing or say that there is nothing to say."""
    if record.get(field) is None:
        return ""
    text = said(record, field)
    return "" if text.casefold().strip(".。") in NOTHING else text
