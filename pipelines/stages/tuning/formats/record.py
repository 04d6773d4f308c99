"""A record while it is read: what a format takes out of it, what stays, and what is worth counting.

A format takes every field that it understands. What stays is told by name in the report, and a field that would change
what a conversation means, and that nobody took, rejects the record: nothing is dropped in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pipelines.stages.tuning.conversation import BadRecord, Conversation, Message, Unusable, is_unicode

# Fields that change what a conversation says or what of it is learned, and that no format takes.
MEANINGFUL = frozenset(
    {"image", "images", "video", "videos", "audio", "audios", "chosen", "rejected", "kto_tag", "refusal", "prefix"}
    | {"function_call", "tool_calls", "reasoning_content", "train_detail", "loss_mask", "history", "options", "choices"}
)
SYSTEMS = ("system", "system_prompt")
TOOLS = ("tools", "functions")
BEGINS_AS_LIST = re.compile(r"\[\s*['\"{\[]")  # a list of Python or JSON that was written into a cell


class Record(dict[str, Any]):
    """The fields of a record, and in `notes` what is to be counted about it."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.notes: list[str] = []

    def has(self, *fields: str) -> bool:
        """Whether all these fields are there and not null."""
        return all(self.get(field) is not None for field in fields)

    def take(self, field: str) -> Any:
        """Remove and return a field; None where it is missing."""
        return self.pop(field, None)

    def text(self, field: str, optional: bool = False) -> str:
        """Take a field that must be text; `optional`: missing is empty."""
        value = self.pop(field, None)
        if value is None and optional:
            return ""
        return self.noted(plain_text(value, field))

    def noted(self, text: str) -> str:
        """The text, a note made of it where it looks like a list that was written into a cell."""
        if text.startswith("[") and text.endswith("]") and BEGINS_AS_LIST.match(text):
            self.notes.append("list in a cell, kept as text")
        return text


def plain_text(value: Any, where: str) -> str:
    """A value that must be text. Raises BadRecord: missing, a list in a cell, or something else."""
    if isinstance(value, str):
        if value.isascii() or is_unicode(value):
            return value
        raise BadRecord(f"broken text: {where} holds half of a surrogate pair")
    if value is None:
        raise BadRecord(f"missing: {where}")
    if isinstance(value, list):
        raise BadRecord(f"list in a cell: {where} is a list, where text belongs")
    raise BadRecord(f"no text: {where} is {type(value).__name__}, where text belongs")


def from_json(value: Any, where: str) -> Any:
    """A list or an object, or what a text spells of one."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise BadRecord(f"not JSON: {where} is text that spells no list and no object") from None


def conversation(record: Record, messages: list[Message]) -> Conversation:
    """The turns with what stands beside them in the record: a system prompt, tools, a weight."""
    for field in SYSTEMS:
        if field in record and (value := record.take(field)):
            _add_system(messages, plain_text(value, field), field)
    if messages and messages[0]["role"] == "system" and not messages[0]["content"].strip():
        record.notes.append("empty system turn, left out")
        del messages[0]
    if (weight := record.take("weight")) is not None and not weighted(weight, "weight"):
        raise Unusable("nothing to learn: the record's weight is 0")
    found: Conversation = {"messages": messages}
    if tools := [tool for field in TOOLS if field in record for tool in declared(record.take(field), field)]:
        found["tools"] = tools
    refuse(record, MEANINGFUL)
    return found


def refuse(fields: dict[str, Any], meaningful: Collection[str], where: str = "") -> None:
    """Raise BadRecord for a field that changes the meaning and that no format took."""
    for field in fields.keys() & meaningful:
        if fields[field] not in (None, "", [], {}):
            raise BadRecord(f"unknown meaning: {where}{field} is nothing that is learned here")


def weighted(value: Any, where: str) -> bool:
    """Whether a weight says that something is learned: 1, or 0. Raises BadRecord for what is between."""
    number = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get(value) if isinstance(value, str) else value  # of a CSV
    if number in (0, 1):  # 0.0 and false, too
        return bool(number)
    raise BadRecord(f"weight: {where} is {value!r}, and only 0 and 1 are known")


def declared(value: Any, where: str) -> list[dict[str, Any]]:
    """Tools, in OpenAI's form, out of a list of them or its JSON; those of older forms (the function alone) as well."""
    value = from_json(value, where) if value else []
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value or []):
        raise BadRecord(f"tools: {where} is no list of tools")
    return [_tool(tool, f"{where}[{number}]") for number, tool in enumerate(value)]


def joined(parts: Iterable[str], by: str = "\n") -> str:
    """The parts that say something, one below another."""
    return by.join(part for part in parts if part)


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    function = tool.get("function", tool)
    if tool.get("type", "function") not in ("function", "object") or not isinstance(function, dict):
        raise BadRecord(f"tools: {where} is no function")
    name = plain_text(function.get("name"), f"{where}.name")
    kept = {key: value for key, value in function.items() if value is not None and key != "type"}
    return {"type": "function", "function": {**kept, "name": name}}


def _add_system(messages: list[Message], text: str, field: str) -> None:
    if not messages or messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": text})
    elif messages[0]["content"] != text:
        raise BadRecord(f"two system turns: {field} beside the turns is not what the first turn says")
