"""The layouts in which the world keeps conversations, each read into messages of `role` and `content`.

To add one, write a function `record -> list of messages` that raises BadRecord, and enter it in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.stages.tuning.records import BadRecord

Message = dict[str, str]

# Names of the roles in ShareGPT files and in preference files of the same family.
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


def messages(record: dict[str, Any]) -> list[Message]:
    """`messages`: role and content, as OpenAI and Hugging Face write them."""
    return turns(record, "messages", "role", "content")


def sharegpt(record: dict[str, Any]) -> list[Message]:
    """`conversations`: from and value; `system` may stand beside them."""
    return [*_system(record), *turns(record, "conversations", "from", "value")]


def alpaca(record: dict[str, Any]) -> list[Message]:
    """`instruction`, `input` and `output`; LLaMA-Factory's `system` and `history` (pairs) may stand beside them."""
    found = _system(record)
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise BadRecord("history: not a list of pairs of request and answer")
    for pair in history:
        found += [_message("user", pair[0], "history"), _message("assistant", pair[1], "history")]
    parts = [text(record, "instruction"), text(record, "input") if record.get("input") else ""]
    found.append({"role": "user", "content": "\n".join(part for part in parts if part)})
    return [*found, {"role": "assistant", "content": text(record, "output")}]


def prompt_response(record: dict[str, Any]) -> list[Message]:
    """`prompt` and `response`, one turn each."""
    return [
        {"role": "user", "content": text(record, "prompt")},
        {"role": "assistant", "content": text(record, "response")},
    ]


FORMATS: dict[str, Callable[[dict[str, Any]], list[Message]]] = {
    "messages": messages,
    "alpaca": alpaca,
    "sharegpt": sharegpt,
    "prompt-response": prompt_response,
}


def turns(record: dict[str, Any], field: str, role: str, content: str) -> list[Message]:
    """A list of turns under `field`, each an object with `role` and `content` under these names."""
    found = record.get(field)
    if not isinstance(found, list):
        raise BadRecord(f"{field}: {_missing(found)}, where a list of turns belongs")
    return [turn(entry, f"{field}[{index}]", role, content) for index, entry in enumerate(found)]


def turn(entry: Any, where: str, role: str, content: str) -> Message:
    if not isinstance(entry, dict):
        raise BadRecord(f"{where}: {_missing(entry)}, where a turn belongs")
    name = entry.get(role)
    if not isinstance(name, str) or name not in ROLES:
        raise BadRecord(f"{where}.{role}: {name!r} is not one of {', '.join(ROLES)}")
    return _message(ROLES[name], entry.get(content), f"{where}.{content}")


def text(record: dict[str, Any], field: str) -> str:
    """A field that must be text. An empty one is found by `checked`."""
    return _message("", record.get(field), field)["content"]


def checked(conversation: list[Message]) -> list[Message]:
    """The conversation, if it can be learned from: an optional system message, then user and assistant in turns, the
    assistant last, and something said in each. Raises BadRecord otherwise."""
    spoken = conversation[1:] if conversation and conversation[0]["role"] == "system" else conversation
    if not spoken:
        raise BadRecord("no turns")
    for index, message in enumerate(spoken):
        expected = "assistant" if index % 2 else "user"
        if message["role"] != expected:
            raise BadRecord(f"turn {index + 1} is of the {message['role']}, where the {expected}'s belongs")
    if len(spoken) % 2:
        raise BadRecord("ends with the user's turn")
    for message in conversation:
        if not message["content"].strip():
            raise BadRecord(f"nothing said by the {message['role']}")
    return conversation


def _system(record: dict[str, Any]) -> list[Message]:
    return [_message("system", record["system"], "system")] if record.get("system") else []


def _message(role: str, content: Any, where: str) -> Message:
    if not isinstance(content, str):
        raise BadRecord(f"{where}: {_missing(content)}, where text belongs")
    if not is_unicode(content):
        raise BadRecord(f"{where}: half of a surrogate pair")
    return {"role": role, "content": content}


def is_unicode(value: str) -> bool:
    """Whether a string can be written: JSON can spell what is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _missing(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
