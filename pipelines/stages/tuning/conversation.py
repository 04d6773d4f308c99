"""What a conversation is: turns of a system, a user, an assistant and tools, in the form that transformers renders.

All formats are read into it, all templates render it, and it is stored as JSON. Absent keys are absent, never null.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

Role = str  # "system", "user", "assistant" or "tool"


class BadRecord(Exception):
    """Why a record is not used: what is wrong in a few words, which are counted, then a colon and the details."""


class Unusable(BadRecord):
    """A record that is of its format and yet teaches nothing: counted, but no sign that the format is another."""


class Function(TypedDict):
    """A function and the arguments that it is called with."""

    name: str
    arguments: dict[str, Any]


class _ToolCall(TypedDict):
    type: str
    function: Function


class ToolCall(_ToolCall, total=False):
    """A call of a tool: `type` is `function`; `id` where the tool's answer names it."""

    id: str


class _Message(TypedDict):
    role: Role
    content: str


class Message(_Message, total=False):
    """One turn. `reasoning_content`, `tool_calls`, `learn` are the assistant's, `name` and `tool_call_id` a tool's."""

    reasoning_content: str
    tool_calls: list[ToolCall]
    name: str
    tool_call_id: str
    learn: bool
    """False: a turn of the assistant that must not be learned. Absent: it is learned."""


class _Conversation(TypedDict):
    messages: list[Message]


class Conversation(_Conversation, total=False):
    """Turns, and the tools that may be called in them: schemas in OpenAI's form."""

    tools: list[dict[str, Any]]
    reference: str
    """Of a prompt without an answer (`prompts`): what a right answer says, for a reward to compare with."""
    fields: dict[str, Any]
    """Of such a prompt: what else its record says, for a reward to read."""


FOLLOWS = {  # who may speak after whom
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "calling assistant": ("tool",),
    "tool": ("assistant", "tool"),
}


def checked(messages: list[Message], answered: bool = True) -> list[Message]:
    """The turns, if they can be learned from.

    An optional system turn, then user and assistant in turns; an assistant that calls tools is followed by their
    answers and speaks again. Something is said or called in each turn (a tool may return nothing), and the assistant
    is the last to speak; with `answered` false the user is. Raises BadRecord otherwise.
    """
    before = ""
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role not in FOLLOWS[before]:
            raise BadRecord(f"out of turn: turn {number} is of the {role}, where {_whose(FOLLOWS[before])} belongs")
        if role == "tool":
            _check_answer_of_tool(message, messages[: number - 1])
        elif not message["content"].strip() and not message.get("tool_calls"):
            kind = "empty answer" if role == "assistant" else "empty turn"
            raise Unusable(f"{kind}: nothing said by the {role} in turn {number}")
        before = "calling assistant" if message.get("tool_calls") else role
    last = messages[-1]["role"] if messages else ""
    if not messages or last == "system":
        raise BadRecord("no turns")
    if answered and last != "assistant":
        raise BadRecord(f"no answer: ends with the {last}'s turn (the format `prompts` reads requests alone)")
    if not answered and last != "user":
        raise BadRecord(f"no prompt: ends with the {last}'s turn")
    if answered and not any(learned(messages)):
        raise Unusable("nothing to learn: no turn of the assistant has a weight other than 0")
    return messages


def learned(messages: Iterable[Message]) -> Iterable[bool]:
    """Of each turn of the assistant, whether it is learned."""
    return (message.get("learn", True) for message in messages if message["role"] == "assistant")


def answers(messages: Iterable[Message]) -> list[str]:
    """What the assistant says, turn by turn."""
    return [message["content"] for message in messages if message["role"] == "assistant"]


def is_unicode(value: str) -> bool:
    """Whether a string can be written: JSON can spell what is no character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_answer_of_tool(message: Message, before: list[Message]) -> None:
    """A tool's answer that names a call names one of the assistant's last calls."""
    asked = next(turn for turn in reversed(before) if turn["role"] == "assistant")
    known = [call["id"] for call in asked.get("tool_calls", []) if "id" in call]
    named = message.get("tool_call_id")
    if named is not None and known and named not in known:
        raise BadRecord(f"tool answer: of a call {named!r}, which was not made")


def _whose(roles: tuple[str, ...]) -> str:
    return " or ".join(f"the {role}'s" for role in roles)
