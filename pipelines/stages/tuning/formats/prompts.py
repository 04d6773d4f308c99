"""Requests without an answer, for a model to answer: what reinforcement learning and evaluations take.

A right answer that stands beside the request is kept as `reference`, and is no turn; so are the tests of one that is to
be code. All else that a record says is kept as its `fields`.
"""

from __future__ import annotations

from typing import Any

from pipelines.stages.tuning.conversation import Conversation, Message
from pipelines.stages.tuning.formats.chat import LISTS, dialogue
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.record import Record, conversation

REQUESTS = ("prompt", "question", "query", "problem", "instruction", "user_prompt")
LICENSES = ("licen", "spdx")
GRADED = "reward_model"  # where sets in verl's layout have their `ground_truth`
REFERENCES = ("reference", "answer", "solution", "ground_truth", "response", "tests", "test_list", "test")


def _fits(record: Record) -> bool:
    return any(name in record for name in (*LISTS, *REQUESTS))


def _read(record: Record) -> list[Conversation]:
    told = next(filter(None, (_reference(record, name) for name in REFERENCES)), "")
    if not told and isinstance(graded := record.get(GRADED), dict):
        told = _reference(Record(graded), "ground_truth")
    field = next((name for name in REQUESTS if isinstance(record.get(name), str)), "")
    if field:
        messages: list[Message] = [{"role": "user", "content": record.text(field)}]
        found = conversation(record, messages)
    else:
        if isinstance(record.get("prompt"), list):
            record["messages"] = record.take("prompt")
        found = dialogue(record)
    if told:
        found["reference"] = told
    if fields := {name: record.take(name) for name in list(record) if not _is_empty(record[name], name)}:
        found["fields"] = fields
    return [found]


def _is_empty(value: Any, name: str) -> bool:
    """Whether a field says nothing, or what is kept elsewhere: the licence."""
    return value in (None, "", [], {}) or name.startswith(LICENSES)


def _reference(record: Record, name: str) -> str:
    """What a field says of a right answer: text, a number, or tests as a list (MBPP) or with what they test
    (HumanEval)."""
    value = record.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(record.take(name))
    if name == "test_list" and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(record.take(name))
    if not isinstance(value, str):
        return ""
    called = record.get("entry_point") if name == "test" else None
    return record.text(name) + (f"\n\ncheck({called})\n" if isinstance(called, str) else "")


LAYOUT = Layout("prompts", (*LISTS, *REQUESTS), _fits, _read)
