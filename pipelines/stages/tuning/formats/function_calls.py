"""Sets for calling functions: xLAM's columns of JSON, and Glaive's text of both speakers with its own marks."""

from __future__ import annotations

import json
import re
from typing import Any

from pipelines.stages.tuning.conversation import BadRecord, Conversation, Message, ToolCall
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.record import Record, conversation, declared
from pipelines.stages.tuning.formats.turns import calls

SPEAKERS = re.compile(r"(?:^|(?<=\n))\s*(USER|ASSISTANT|FUNCTION RESPONSE):")
CALL = "<functioncall>"
NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"]+)"')
ARGUMENTS = re.compile(r'"arguments"\s*:\s*(?:\'(.*)\'|(\{.*\}))\s*\}\s*\Z', re.DOTALL)


def _xlam_fits(record: Record) -> bool:
    return record.has("query", "answers", "tools")


def _xlam_read(record: Record) -> list[Conversation]:
    """`query` is asked, the calls in `answers` are the answer, `tools` are those to choose from."""
    tools = [_with_schema(tool) for tool in declared(record.take("tools"), "tools")]
    messages: list[Message] = [
        {"role": "user", "content": record.text("query")},
        {"role": "assistant", "content": "", "tool_calls": calls(record.take("answers"), "answers")},
    ]
    return [{**conversation(record, messages), "tools": tools}]


def _with_schema(tool: dict[str, Any]) -> dict[str, Any]:
    """xLAM declares parameters by their names alone, with no schema around them."""
    parameters = tool["function"].get("parameters")
    if isinstance(parameters, dict) and parameters and "properties" not in parameters:
        tool["function"]["parameters"] = {"type": "object", "properties": parameters}
    return tool


def _glaive_fits(record: Record) -> bool:
    chat = record.get("chat")
    return isinstance(chat, str) and chat.lstrip().startswith("USER:")


def _glaive_read(record: Record) -> list[Conversation]:
    """`chat` is the dialogue, `system` says what there is to call."""
    before, *said = SPEAKERS.split(record.text("chat"))
    if before.strip() or not said:
        raise BadRecord("no dialogue: chat does not begin with USER:")
    system = re.sub(r"\ASYSTEM:\s*", "", record.text("system", optional=True)).strip()
    tools = [tool for spelled in _objects(system) for tool in declared(spelled, "system")]
    if tools and "{" in system:
        system = system[: system.index("{")].rstrip().removesuffix("-").rstrip()
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for name, words in zip(said[::2], said[1::2], strict=True):
        words = words.replace("<|endoftext|>", "").strip()
        if name == "USER":
            messages.append({"role": "user", "content": words})
        elif name == "ASSISTANT":
            text, _, call = words.partition(CALL)
            message: Message = {"role": "assistant", "content": text.strip()}
            if call:
                message["tool_calls"] = [_glaive_call(call)]
            messages.append(message)
        else:
            messages.append({"role": "tool", "content": words})
    found = conversation(record, messages)
    return [{**found, "tools": tools} if tools else found]


def _glaive_call(text: str) -> ToolCall:
    """`{"name": "f", "arguments": '{"x": 1}'}`: the arguments stand between single quotes, which is no JSON."""
    name, arguments = NAME.match(text), ARGUMENTS.search(text)
    if name is None:
        raise BadRecord("tool call: no name of a function behind <functioncall>")
    [call] = calls({"name": name[1], "arguments": (arguments[1] or arguments[2]) if arguments else ""}, "chat")
    return call


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that a text holds."""
    found, position, decoder = [], text.find("{"), json.JSONDecoder()
    while position >= 0:
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError:
            return []
        found.append(value)
        position = text.find("{", position)
    return found


XLAM = Layout("xlam", ("query",), _xlam_fits, _xlam_read)
GLAIVE = Layout("glaive", ("chat",), _glaive_fits, _glaive_read)
