"""A request and an answer in two fields, under the many names that published sets give them.

Either is text, or turns (TRL's conversational `prompt` and `completion`). What else changes the conversation may stand
beside: a context, earlier turns as pairs (`history`), a system prompt, tools, the thoughts before the answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pipelines.stages.tuning.conversation import BadRecord, Conversation, Message
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.record import Record, conversation, joined, plain_text
from pipelines.stages.tuning.formats.turns import REASONING_FIELDS, calls, turns


class Names(NamedTuple):
    """The fields of a set's request and answer, and of what belongs below the request where it is there."""

    request: str
    answer: str
    contexts: tuple[str, ...] = ("context", "input")


# Stanford Alpaca's prompt with a record in it, as Dolly and HH-RLHF were published for MPT.
TEMPLATE = re.compile(
    r"Below is an instruction that describes a task[^\n]*\n+### Instruction:\n(.*?)(?:\n+### Input:\n(.*?))?\n+"
    r"### Response:\s*",
    re.DOTALL,
)
THOUGHTS = (*REASONING_FIELDS, "Complex_CoT")


def pairs(name: str, *known: Names) -> Layout:
    """The layout of records that have the fields of one of these."""

    def fits(record: Record) -> bool:
        return any(names.request in record and names.answer in record for names in known)

    def read(record: Record) -> list[Conversation]:
        fitting = (names for names in known if names.request in record and names.answer in record)
        return [of_pair(record, next(fitting, known[0]))]

    return Layout(name, tuple(dict.fromkeys(names.request for names in known)), fits, read)


def of_pair(record: Record, names: Names) -> Conversation:
    """The conversation of a request and an answer."""
    messages = _history(record)
    asked = record.take(names.request)
    if isinstance(asked, list) and _are_turns(asked):
        messages += turns(asked, names.request, record)
    else:
        messages.append({"role": "user", "content": _request(record, asked, names)})
    answer = record.take(names.answer)
    if isinstance(answer, list | dict) and _are_turns(answer):
        messages += turns(answer if isinstance(answer, list) else [answer], names.answer, record)
    else:
        messages.append(_answer(record, answer, names))
    return conversation(record, messages)


def _request(record: Record, asked: object, names: Names) -> str:
    request = record.noted(plain_text(asked, names.request))
    if request.startswith("Below is") and (found := TEMPLATE.fullmatch(request)):
        record.notes.append("Alpaca's template around the request, taken off")
        request = joined([found[1], found[2] or ""])
    for name in names.contexts:
        if name in record and name != names.request:
            request = joined([request, record.text(name, optional=True)])
    return request


def _answer(record: Record, answer: object, names: Names) -> Message:
    message: Message = {"role": "assistant", "content": ""}
    if record.get("tool_calls"):
        message["tool_calls"] = calls(record.take("tool_calls"), "tool_calls")
    if answer is not None or "tool_calls" not in message:
        message["content"] = record.noted(plain_text(answer, names.answer))
    thoughts = joined([record.text(field, optional=True) for field in THOUGHTS if field in record])
    return {**message, "reasoning_content": thoughts} if thoughts else message


def _history(record: Record) -> list[Message]:
    """Earlier turns: pairs of request and answer."""
    history = record.take("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise BadRecord("history: not a list of pairs of request and answer")
    roles = ("user", "assistant")
    return [
        {"role": role, "content": plain_text(said, "history")}
        for pair in history
        for role, said in zip(roles, pair, strict=True)
    ]


def _are_turns(value: object) -> bool:
    entries = value if isinstance(value, list) else [value]
    return bool(entries) and all(isinstance(entry, dict) for entry in entries)


ALPACA = pairs("alpaca", Names("instruction", "output"), Names("instruct", "output"))
DOLLY = pairs("dolly", Names("instruction", "response"))
ADVERTISEGEN = pairs("advertisegen", Names("content", "summary"))
FIREFLY = pairs("firefly", Names("input", "target"), Names("inputs", "targets"))
PROMPT = pairs("prompt-response", *(Names("prompt", name) for name in ("response", "completion", "output", "answer")))
QUESTION = pairs(
    "question-answer",
    *(Names("question", name) for name in ("answer", "response", "output", "std_answer")),
    *(Names("query", name) for name in ("response", "answer")),
    Names("Question", "Answer"), Names("Question", "Response"), Names("ask", "answer"), Names("problem", "solution"),
)  # fmt: skip
INPUT = pairs("input-output", Names("input", "output"))
ICLINIQ = pairs("icliniq", Names("input", "answer_icliniq"))
MAPPED = Names("prompt", "response")
