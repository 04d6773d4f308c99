"""Requests without an answer, for a model to answer: what reinforcement learning and evaluations take.

A right answer that stands beside the request is kept as `reference`, and is no turn.
"""

from __future__ import annotations

from pipelines.stages.tuning.conversation import Conversation, Message
from pipelines.stages.tuning.formats.chat import LISTS, dialogue
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.record import Record, conversation

REQUESTS = ("prompt", "question", "query", "problem", "instruction", "user_prompt")
REFERENCES = ("reference", "answer", "solution", "ground_truth", "response")


def _fits(record: Record) -> bool:
    return any(name in record for name in (*LISTS, *REQUESTS))


def _read(record: Record) -> list[Conversation]:
    reference = next((name for name in REFERENCES if isinstance(record.get(name), str)), "")
    told = record.text(reference) if reference else ""
    field = next((name for name in REQUESTS if isinstance(record.get(name), str)), "")
    if field:
        messages: list[Message] = [{"role": "user", "content": record.text(field)}]
        found = conversation(record, messages)
    else:
        if isinstance(record.get("prompt"), list):
            record["messages"] = record.take("prompt")
        found = dialogue(record)
    return [{**found, "reference": told} if told else found]


LAYOUT = Layout("prompts", (*LISTS, *REQUESTS), _fits, _read)
