"""MOSS 003: turns of a human, inner thoughts, commands, tool responses and what MOSS says, each between its own tokens.

Inner thoughts become `reasoning_content`, commands tool calls, tool responses the tools' turns; the meta instruction is
the system prompt, and the tools are those that it enables. `None` says that there is none.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pipelines.stages.tuning.conversation import BadRecord, Conversation, Message, ToolCall
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.record import Record, conversation, plain_text

WRAPPED = re.compile(r"\s*(?:<\|[A-Za-z ]+\|>:)?\s*(.*?)\s*(?:<eo[a-z]>)?\s*", re.DOTALL)
ENABLED = re.compile(r"- ([^\n:]+): enabled\. API: (\w+)\((\w+)\)")
CALL = re.compile(r'(\w+)\(("(?:[^"\\]|\\.)*")\)')
CALLS = re.compile(rf"{CALL.pattern}(?:[\s,]+{CALL.pattern})*[\s,]*(?:None)?")  # None: and no more
NONE = ("", "None", "None.")
PARTS = ("Inner Thoughts", "Commands", "Tool Responses")


def _fits(record: Record) -> bool:
    chat = record.get("chat")
    return isinstance(chat, dict) and "turn_1" in chat


def _read(record: Record) -> list[Conversation]:
    chat = record.take("chat")
    if not isinstance(chat, dict):
        raise BadRecord("missing: chat, an object of turns")
    system = record.text("meta_instruction", optional=True)
    tools = {name: (what, argument) for what, name, argument in ENABLED.findall(system)}
    turns = record.take("num_turns")
    if isinstance(turns, int) and turns != len(chat):
        raise BadRecord(f"no turns: num_turns is {turns}, and there are {len(chat)}")
    messages: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    for number in range(1, len(chat) + 1):
        name = f"turn_{number}"
        if not isinstance(chat.get(name), dict):
            raise BadRecord(f"no turns: chat.{name} is missing")
        messages += _turn(chat[name], f"chat.{name}", tools)
    found = conversation(record, messages)
    if tools:
        found["tools"] = [_tool(name, *told) for name, told in tools.items()]
    return [found]


def _turn(turn: dict[str, Any], where: str, tools: dict[str, tuple[str, str]]) -> list[Message]:
    said = {name: _said(turn.get(name), f"{where}.{name}") for name in ("Human", "MOSS")}
    thoughts, commands, results = (_said(turn.get(name) or "", f"{where}.{name}", NONE) for name in PARTS)
    if unknown := turn.keys() - {*said, *PARTS}:
        raise BadRecord(f"unknown meaning: {where} has {', '.join(sorted(unknown))}")
    messages: list[Message] = [{"role": "user", "content": said["Human"]}]
    answer: Message = {"role": "assistant", "content": said["MOSS"]}
    if commands:
        first: Message = {"role": "assistant", "content": "", "tool_calls": _calls(commands, where, tools)}
        messages += [first, {"role": "tool", "content": results}]
    else:
        first = answer
        if results:
            raise BadRecord(f"tool answer: {where} has a response to no command")
    if thoughts:
        first["reasoning_content"] = thoughts
    return [*messages, answer]


def _said(value: Any, where: str, empty: tuple[str, ...] = ()) -> str:
    """A part of a turn without its name and its end token."""
    found = WRAPPED.fullmatch(plain_text(value, where))
    text = found[1] if found else ""
    return "" if text in empty else text


def _calls(commands: str, where: str, tools: dict[str, tuple[str, str]]) -> list[ToolCall]:
    if not CALLS.fullmatch(commands):
        raise BadRecord(f'tool call: {where}.Commands is no list of calls such as Search("...")')
    found: list[ToolCall] = []
    for name, argument in CALL.findall(commands):
        _, parameter = tools.get(name, ("", "argument"))
        try:
            value = json.loads(argument, strict=False)
        except ValueError:  # a backslash that is none of JSON's, as formulas have
            value = argument[1:-1]
        found.append({"type": "function", "function": {"name": name, "arguments": {parameter: value}}})
    return found


def _tool(name: str, what: str, parameter: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": what, "parameters": schema}}


LAYOUT = Layout("moss", ("chat",), _fits, _read)
