"""MOSS's own form of calls, which no parser of vLLM's reads: thoughts, commands and answers behind their names.

`<|Inner Thoughts|>: ... <|Commands|>: Calculate("3*4")`, and once what came of it stands in the conversation, the
answer. The client sees answers alone.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

from serving.plugins.dialects import Call

MARKER = "<|Commands|>"  # stands in MOSS's chat template
ANSWERS = "<|MOSS|>:"
# What MOSS was trained to call, and with which argument; others are offered by the names that they have here.
NAMES = {"calculator": ("Calculate", "expression"), "solver": ("Solve", "equation"), "search": ("Search", "query"),
         "image": ("Text2Image", "description")}  # fmt: skip
THOUGHT = re.compile(r"<\|Inner Thoughts\|>:\s*(.*?)\s*(?=<\||<eot>|$)", re.DOTALL)
COMMANDS = re.compile(r"<\|Commands\|>:\s*(.*?)\s*(?:<eoc>|<\||$)", re.DOTALL)
CALL = re.compile(r'(\w+)\(("(?:[^"\\]|\\.)*")\)')


class Moss:
    """Calls of a model of MOSS's template. One of these for each turn of it."""

    def __init__(self) -> None:
        self.text = ""
        self._shown = 0
        self._calls: list[Call] | None = None

    @staticmethod
    def offer(asked: dict[str, Any], schemas: list[dict[str, Any]]) -> dict[str, Any]:
        """The template tells of functions; the engine is to read no calls."""
        return {**asked, "tools": [_named(schema["function"]) for schema in schemas], "tool_choice": "none"}

    def take(self, delta: dict[str, Any]) -> dict[str, Any]:
        content = delta.get("content")
        if not content:
            return delta
        self.text += content
        return {**delta, "content": self._show()}

    def _show(self) -> str:
        """What is the answer's of what was not shown yet."""
        begins = self.text.lstrip()[:2]
        if "<|".startswith(begins):  # it has a name, or may get one
            at = self.text.find(ANSWERS)
            if at < 0:
                return ""
            self._shown = max(self._shown, at + len(ANSWERS) + self.text[at + len(ANSWERS) :].startswith(" "))
        shown, self._shown = self.text[self._shown :], len(self.text)
        return shown

    @property
    def complete(self) -> bool:
        return False

    def rest(self) -> str:
        """Of a turn that names neither answer nor command, all that was kept back."""
        if self.calls() or self._shown:
            return ""
        shown, self._shown = self.text, len(self.text)
        return shown

    def calls(self) -> list[Call]:
        if self._calls is None or not self._calls:
            found = COMMANDS.search(self.text)
            pairs = CALL.findall(found[1]) if found and ANSWERS not in self.text else []
            self._calls = [
                Call(f"call_{secrets.token_hex(12)}", name, {"argument": _value(text)}) for name, text in pairs
            ]
        return self._calls

    def raw(self, wanted: list[Call]) -> list[dict[str, Any]]:
        return []

    def answered(self, results: list[tuple[Call, str]]) -> list[dict[str, Any]]:
        thought = THOUGHT.search(self.text)
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call, _ in results
        ]
        said = {"role": "assistant", "content": "", "tool_calls": calls}
        if thought and thought[1]:
            said["reasoning_content"] = thought[1]
        told = "\n".join(f"{call.name}({json.dumps(call.arguments['argument'])}) => {text}" for call, text in results)
        return [said, {"role": "tool", "tool_call_id": results[0][0].id, "content": told}]


def _named(function: dict[str, Any]) -> dict[str, Any]:
    """A function as MOSS knows it."""
    name = function["name"]
    if name not in NAMES:
        return {"type": "function", "function": function}
    own, argument = NAMES[name]
    [schema] = function["parameters"]["properties"].values()
    parameters = {"type": "object", "properties": {argument: schema}, "required": [argument]}
    return {"type": "function", "function": {**function, "name": own, "parameters": parameters}}


def _value(text: str) -> str:
    try:
        return str(json.loads(text, strict=False))
    except ValueError:  # a backslash that is none of JSON's, as formulas have
        return text[1:-1]
