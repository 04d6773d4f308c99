"""How a model is told of plug-ins, and how it calls them: by its own chat template, or in plain text.

Where the engine reads the calls of the model's template, functions go in and tool calls come out. Else the form of
Hermes stands in a system message, and the calls in the answer's text, which is kept back from where one may begin.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from cluster.core.tools.calls import CALL

OPEN = "<tool_call>"
INSTRUCTION = """You may call one of these functions where it helps:
<tools>
{tools}
</tools>
To call it, say nothing but a JSON object with its name and its arguments within <tool_call></tool_call>:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>
The result comes in the next turn. When you need no more functions, answer the user."""


@dataclass
class Call:
    """A call as the model wrote it."""

    id: str
    name: str
    arguments: Any


class Natively:
    """Calls that the engine reads. One of these for each turn of the model."""

    def __init__(self) -> None:
        self.text = ""
        self._calls: list[dict[str, Any]] = []

    @staticmethod
    def offer(asked: dict[str, Any], schemas: list[dict[str, Any]]) -> dict[str, Any]:
        return {**asked, "tools": [*(asked.get("tools") or []), *schemas]}

    def take(self, delta: dict[str, Any]) -> dict[str, Any]:
        """What the client may see of a part of an answer; calls are kept back."""
        self.text += delta.get("content") or ""
        for number, part in enumerate(delta.get("tool_calls") or ()):
            self._add(part, part.get("index", number))
        return {name: value for name, value in delta.items() if name != "tool_calls"}

    def _add(self, part: dict[str, Any], index: int) -> None:
        while len(self._calls) <= index:
            self._calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call, function = self._calls[index], part.get("function") or {}
        call["id"] = part.get("id") or call["id"] or f"call_{secrets.token_hex(12)}"
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    @property
    def complete(self) -> bool:
        """Whether nothing of the turn is wanted any more."""
        return False

    def rest(self) -> str:
        """What was kept back and is no call."""
        return ""

    def calls(self) -> list[Call]:
        return [Call(each["id"], each["function"]["name"], each["function"]["arguments"]) for each in self._calls]

    def raw(self, wanted: list[Call]) -> list[dict[str, Any]]:
        """Calls as they came, for a client that is to answer them."""
        ids = {call.id for call in wanted}
        return [{"index": n, **call} for n, call in enumerate(c for c in self._calls if c["id"] in ids)]

    def answered(self, results: list[tuple[Call, str]]) -> list[dict[str, Any]]:
        """The messages of this turn and of what came of its calls."""
        said = {"role": "assistant", "content": self.text or None, "tool_calls": self._calls}
        results_of = [{"role": "tool", "tool_call_id": c.id, "name": c.name, "content": text} for c, text in results]
        return [said, *results_of]


class ByText:
    """Calls in the answer's text; the first of a turn counts."""

    def __init__(self) -> None:
        self.text = ""  # all of it
        self._shown = 0
        self._call: Call | None = None

    @staticmethod
    def offer(asked: dict[str, Any], schemas: list[dict[str, Any]]) -> dict[str, Any]:
        told = INSTRUCTION.format(tools="\n".join(json.dumps(schema, ensure_ascii=False) for schema in schemas))
        messages = list(asked["messages"])
        first = messages[0] if messages else {}
        if isinstance(first, dict) and first.get("role") == "system" and isinstance(first.get("content"), str):
            messages[0] = {**first, "content": f"{first['content']}\n\n{told}"}
        else:
            messages.insert(0, {"role": "system", "content": told})
        return {**asked, "messages": messages}

    def take(self, delta: dict[str, Any]) -> dict[str, Any]:
        content = delta.get("content")
        if not content:
            return delta
        self.text += content
        if found := CALL.search(self.text):
            self.text = self.text[: found.end()]
            return {**delta, "content": self._show(found.start(), found[1])}
        begun = self.text.find(OPEN, self._shown)
        if begun < 0:  # what may be the beginning of one stays back
            held = (n for n in range(min(len(OPEN) - 1, len(self.text)), 0, -1) if OPEN.startswith(self.text[-n:]))
            begun = len(self.text) - next(held, 0)
        return {**delta, "content": self._show(begun)}

    def _show(self, end: int, call: str = "") -> str:
        shown, self._shown = self.text[self._shown : end], max(end, self._shown)
        if call:
            try:
                told = json.loads(call)
                self._call = Call(f"call_{secrets.token_hex(12)}", str(told["name"]), told.get("arguments", {}))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                self._call = Call(f"call_{secrets.token_hex(12)}", "", call)
        return shown

    @property
    def complete(self) -> bool:
        return self._call is not None

    def rest(self) -> str:
        return "" if self._call else self._show(len(self.text))

    def calls(self) -> list[Call]:
        return [self._call] if self._call else []

    def raw(self, wanted: list[Call]) -> list[dict[str, Any]]:
        return []

    def answered(self, results: list[tuple[Call, str]]) -> list[dict[str, Any]]:
        said = {"role": "assistant", "content": self.text}
        told = "\n".join(f"<tool_response>\n{text}\n</tool_response>" for _, text in results)
        return [said, {"role": "user", "content": told}]
