"""An environment of verifiers, played again with what a model has said: what it says next, or what it all is worth.

verifiers plays an answer itself and asks a client for each turn of the model. Ours answers with the turns that were
drawn, and where there are no more of them says that there is no room. So any environment is played by its own code, and
nothing of it is kept between two turns; it must say the same to the same turns, which is checked.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.tasks import package

CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
CUT = "length"


@dataclass(frozen=True)
class Task:
    """An example of an environment, as a prompt's reference has it."""

    environment: str
    options: dict[str, Any]
    example: dict[str, Any]

    @staticmethod
    def of(reference: str) -> Task:
        """Raises ValueError for a reference that is none."""
        try:
            found = json.loads(reference)
            return Task(str(found["environment"]), dict(found["options"]), dict(found["example"]))
        except (ValueError, KeyError, TypeError):
            raise ValueError("is no example of an environment of verifiers") from None

    @property
    def prompt_messages(self) -> int:
        return len(self.example["prompt"])


def prepare() -> None:
    """Import what every environment needs, which takes seconds."""
    _script()


def next_reply(sample: Sample) -> str | None:
    """What the environment says to the last turn; None where it is done."""
    _, client = _played(sample)
    return client.reply


def worth(sample: Sample) -> float:
    """The reward of a whole answer by the environment's rubric, which takes 0 for what one of its functions raises."""
    state, _ = _played(sample)
    found = package.environment(*_where(sample))
    _loop().run_until_complete(found.rubric.score_rollout(state))
    return float(state["reward"])


def _where(sample: Sample) -> tuple[str, dict[str, Any]]:
    task = Task.of(sample.reference)
    return task.environment, task.options


def _played(sample: Sample) -> tuple[Any, Any]:
    """The state of an environment after all turns, and the client that gave them."""
    task = Task.of(sample.reference)
    found = package.environment(task.environment, task.options)
    said = sample.messages[task.prompt_messages :]
    turns = [message["content"] for message in said if message["role"] == "assistant"] + [sample.answer]
    replies = [message["content"] for message in said if message["role"] != "assistant"]
    client = _script()(turns, replies, sample.finish_reason)
    _seed(sample.reference)
    state = _loop().run_until_complete(found.rollout(task.example, client, "policy", {}))
    if client.strange:
        raise RuntimeError(client.strange)
    if state.get("error") is not None:
        error = state["error"]
        raise RuntimeError(f"{task.environment}: {error!r}") from (error if isinstance(error, Exception) else None)
    return state, client


def _seed(text: str) -> None:
    """An environment that throws dice throws the same at every turn of an answer."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all, since an environment may keep what belongs to a loop."""
    return asyncio.new_event_loop()


def calls_of(text: str) -> tuple[str, list[dict[str, str]]]:
    """A turn without its calls of tools, as Qwen's and Hermes' templates write them, and the calls; all of the turn,
    and none, where one of them cannot be read."""
    calls = []
    for number, found in enumerate(CALL.findall(text)):
        try:
            call = json.loads(found)
            name, arguments = str(call["name"]), json.dumps(call.get("arguments", {}))
        except (ValueError, KeyError, TypeError):
            return text, []
        calls.append({"id": f"call_{number}", "name": name, "arguments": arguments})
    return (CALL.split(text)[0].rstrip() if calls else text), calls


def spoken(messages: Sequence[Any]) -> str:
    """What an environment says, as one turn of the user; results of tools as Qwen's and Hermes' templates write them.

    Raises ValueError for what is more than text.
    """
    parts = []
    for message in messages:
        text = message.content
        if isinstance(text, list):
            if any(getattr(part, "type", None) != "text" for part in text):
                raise ValueError("the environment says more than text")
            text = "".join(part.text for part in text)
        parts.append(f"<tool_response>\n{text}\n</tool_response>" if message.role == "tool" else str(text))
    return "\n".join(parts)


@functools.cache
def _script() -> Any:
    """The class of a client that gives turns that were drawn."""
    package.verifiers()
    from verifiers.clients import Client
    from verifiers.errors import OverlongPromptError
    from verifiers.types import Response, ResponseMessage, ToolCall

    class Script(Client):
        """`reply` is what the environment says to the last turn, `strange` why it cannot be learned from."""

        def __init__(self, turns: list[str], replies: list[str], finish_reason: str) -> None:
            super().__init__(None)
            self._turns, self._replies, self._finish_reason = turns, replies, finish_reason
            self._number, self._before = 0, list[tuple[str, Any]]()
            self.reply: str | None = None
            self.strange = ""

        async def get_native_response(self, prompt: Any, model: str, *_: Any, **__: Any) -> Any:
            number, self._number = self._number, self._number + 1
            if number and (strange := self._reads(number, prompt)):
                self.strange = strange
                raise OverlongPromptError(strange)
            if number == len(self._turns):
                raise OverlongPromptError("no more turns were drawn")
            text, calls = calls_of(self._turns[number])
            reason = self._finish_reason if number == len(self._turns) - 1 else "stop"
            message = ResponseMessage(
                content=text,
                tool_calls=[ToolCall(**call) for call in calls] or None,
                finish_reason=reason,
                is_truncated=reason == CUT,
            )
            self._before = [(each.role, each.content) for each in prompt] + [("assistant", text)]
            return Response(id=f"{number}", created=0, model=model, message=message)

        def _reads(self, number: int, prompt: Any) -> str:
            """What is strange about what is said before a turn; its last part is the environment's reply."""
            said = [(each.role, each.content) for each in prompt]
            if said[: len(self._before)] != self._before:
                return "the environment rewrites what was said before, which was drawn otherwise"
            try:
                reply = spoken(prompt[len(self._before) :])
            except ValueError as error:
                return str(error)
            if number == len(self._turns):
                self.reply = reply
            elif reply != self._replies[number - 1]:
                return f"the environment says {reply[:60]!r} where it said {self._replies[number - 1][:60]!r}"
            return ""

        def setup_client(self, config: Any) -> Any:
            return None

        async def to_native_tool(self, tool: Any) -> Any:
            return tool

        async def to_native_prompt(self, messages: Any) -> Any:
            return messages, {}

        async def raise_from_native_response(self, response: Any) -> None:
            return None

        async def from_native_response(self, response: Any) -> Any:
            return response

        async def close(self) -> None:
            return None

    return Script
