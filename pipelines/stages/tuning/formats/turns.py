"""Turns as the world writes them, one object or text each: OpenAI's and ShareGPT's roles, parts, calls, weights."""

from __future__ import annotations

import json
from typing import Any

from pipelines.stages.tuning.conversation import BadRecord, Message, ToolCall
from pipelines.stages.tuning.formats.record import (
    MEANINGFUL,
    Record,
    declared,
    from_json,
    joined,
    plain_text,
    refuse,
    weighted,
)

# Names of the roles in files of conversations and of preferences.
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
ROLE_FIELDS = ("role", "from")
CONTENT_FIELDS = ("content", "value")
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
LEARN_FIELDS = ("weight", "train", "training", "loss", "learn")
# Two turns in one object, as WizardLM, Firefly's MOSS and Capybara have them.
PAIRS = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("input", "output"),
    ("question", "answer"),
    ("prompt", "response"),
)


def turns(value: Any, where: str, record: Record) -> list[Message]:
    """A list of turns: objects, texts of user and assistant by turns, or objects of two turns."""
    value = from_json(value, where)
    if not isinstance(value, list):
        raise BadRecord(f"no turns: {where} is {_kind(value)}, where a list of turns belongs")
    if value and all(isinstance(entry, str) for entry in value):
        roles = ("user", "assistant")
        texts = [plain_text(entry, f"{where}[{number}]") for number, entry in enumerate(value)]
        return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    found: list[Message] = []
    for number, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise BadRecord(f"no turns: {where}[{number}] is {_kind(entry)}, where a turn belongs")
        for message in _of_entry(entry, f"{where}[{number}]", record):
            _add(found, message)
    return found


def turn(entry: Any, where: str) -> Message:
    """One turn, of role and content (or from and value)."""
    if not isinstance(entry, dict):
        raise BadRecord(f"no turns: {where} is {_kind(entry)}, where a turn belongs")
    [message, *more] = _of_entry(entry, where, Record({}))
    if more:
        raise BadRecord(f"no turns: {where} is several turns, where one belongs")
    return message


def content_text(value: Any, where: str) -> tuple[str, str]:
    """What a content says, text or OpenAI's parts of it, and the thoughts among the parts."""
    if not isinstance(value, list):
        return plain_text(value, where), ""
    texts, thoughts = [], []
    for number, part in enumerate(value):
        at = f"{where}[{number}]"
        if isinstance(part, str):
            texts.append(plain_text(part, at))
            continue
        kind = part.get("type") if isinstance(part, dict) else _kind(part)
        if kind in ("text", "input_text", "output_text"):
            texts.append(plain_text(part.get("text"), f"{at}.text"))
        elif kind == "thinking":
            thoughts.append(plain_text(part.get("thinking"), f"{at}.thinking"))
        else:
            raise BadRecord(f"no text: {at} is a part of type {kind!r}")
    return "".join(texts), "".join(thoughts)


def calls(value: Any, where: str) -> list[ToolCall]:
    """Calls of tools: a list of them, one, or the JSON of it; with or without OpenAI's `function` around."""
    value = from_json(value, where)
    found = [value] if isinstance(value, dict) else value
    if not isinstance(found, list):
        raise BadRecord(f"tool call: {where} is {_kind(value)}")
    return [_call(call, f"{where}[{number}]") for number, call in enumerate(found)]


def _of_entry(entry: dict[str, Any], where: str, record: Record) -> list[Message]:
    fields = {key: value for key, value in entry.items() if value is not None}
    role_field = next((name for name in ROLE_FIELDS if name in fields), "")
    if not role_field:
        for asked, answered in PAIRS:
            if asked in fields and answered in fields:
                texts = [plain_text(fields.pop(name), f"{where}.{name}") for name in (asked, answered)]
                _left(fields, where, record)
                return [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]
        raise BadRecord(f"unknown role: {where} has none")
    name = fields.pop(role_field)
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise BadRecord(f"unknown role: {where}.{role_field} is {name!r}, none of {', '.join(ROLES)}")
    if role == "tool" and "observation" in fields:  # ChatGLM3: the call and what came of it, in one turn
        return _called_and_answered(fields, where, record)
    content_field = next((each for each in CONTENT_FIELDS if each in fields), CONTENT_FIELDS[0])
    message: Message
    if role == "call":
        message = {"role": "assistant", "content": "", "tool_calls": calls(fields.pop(content_field, None), where)}
    else:
        message = _message(role, fields, content_field, where)
    if role == "system" and "tools" in fields:  # GLM-4
        record["tools"] = [*declared(record.get("tools"), "tools"), *declared(fields.pop("tools"), f"{where}.tools")]
    _left(fields, where, record)
    return [message]


def _message(role: str, fields: dict[str, Any], content_field: str, where: str) -> Message:
    """A turn of a system, a user, an assistant or a tool. What is understood of it is taken from `fields`."""
    value = fields.pop(content_field, None)
    at = f"{where}.{content_field}"
    if role == "assistant":
        named = ((field, fields.pop(field, [])) for field in ("tool_calls", "function_call"))
        made = [call for field, given in named for call in calls(given, f"{where}.{field}")]
        text, thoughts = ("", "") if value is None and made else content_text(value, at)
        beside = (plain_text(fields.pop(field, ""), f"{where}.{field}") for field in REASONING_FIELDS)
        thoughts = joined([thoughts, *beside])
        message: Message = {"role": role, "content": text}
        if thoughts:
            message["reasoning_content"] = thoughts
        if made:
            message["tool_calls"] = made
        weights = [weighted(fields.pop(f), f"{where}.{f}") for f in LEARN_FIELDS if f in fields]
        if not all(weights):
            message["learn"] = False
        return message
    for field in LEARN_FIELDS:
        if field in fields and not weighted(fields[field], f"{where}.{field}"):
            del fields[field]  # nothing but an assistant's turn is learned: it says what is so
    if role == "tool":
        message = {"role": role, "content": _result(value, at)}
        if isinstance(fields.get("name"), str):
            message["name"] = fields.pop("name")
        if isinstance(fields.get("tool_call_id"), str):
            message["tool_call_id"] = fields.pop("tool_call_id")
        return message
    text, thoughts = content_text(value, at)
    if thoughts:
        raise BadRecord(f"unknown meaning: {at} holds thoughts of the {role}")
    return {"role": role, "content": text}


def _called_and_answered(fields: dict[str, Any], where: str, record: Record) -> list[Message]:
    name, result = plain_text(fields.pop("name", None), f"{where}.name"), fields.pop("observation")
    call = _call({"name": name, "arguments": fields.pop("parameters", {})}, where)
    _left(fields, where, record)
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": _result(result, f"{where}.observation"), "name": name},
    ]


def _result(value: Any, where: str) -> str:
    """What a tool returned: text or parts of it, an object or a list as JSON; nothing is empty."""
    if value is None:
        return ""
    if isinstance(value, list) and value and all(isinstance(part, dict) and "text" in part for part in value):
        return content_text(value, where)[0]
    return plain_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), where)


def _call(call: Any, where: str) -> ToolCall:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") not in (None, "function"):
        raise BadRecord(f"tool call: {where} is no call of a function")
    name = plain_text(function.get("name"), f"{where}.name")
    given = function.get("arguments", function.get("parameters"))
    arguments = from_json(given, f"{where}.arguments") if given not in (None, "") else {}
    if not isinstance(arguments, dict):
        raise BadRecord(f"tool call: {where}.arguments is {_kind(arguments)}, where an object belongs")
    made: ToolCall = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if isinstance(call.get("id"), str):
        made["id"] = call["id"]
    return made


def _add(found: list[Message], message: Message) -> None:
    """Append a turn; calls that follow what the assistant said are part of that turn."""
    last = found[-1] if found else None
    is_call = message["role"] == "assistant" and not message["content"] and "tool_calls" in message
    if is_call and last and last["role"] == "assistant" and "tool_calls" not in last and len(message) == 3:
        last["tool_calls"] = message["tool_calls"]
    else:
        found.append(message)


def _left(fields: dict[str, Any], where: str, record: Record) -> None:
    """What nobody took of a turn: refused where it matters, else counted by its name."""
    refuse(fields, MEANINGFUL, f"{where}.")
    record.notes += [f"field of a turn, left out: {field}" for field in fields]


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
