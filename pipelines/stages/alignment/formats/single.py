"""One answer and whether it is wanted: what KTO learns from (TRL's `label`, LLaMA-Factory's `kto_tag`)."""

from __future__ import annotations

from typing import Any

from pipelines.stages.alignment.formats.layout import Layout, Row, has_prompt, prompt_of, require_answer
from pipelines.stages.tuning.conversation import BadRecord, Message
from pipelines.stages.tuning.formats.record import Record, plain_text
from pipelines.stages.tuning.formats.turns import turns

ANSWERS = ("completion", "response", "answer", "output")
LABELS = ("label", "kto_tag", "desirable")


def _fits(record: Record) -> bool:
    return any(name in record for name in LABELS) and has_prompt(record)


def _read(record: Record) -> list[Row]:
    label = next(name for name in LABELS if name in record)
    desirable = record.take(label)
    if desirable not in (True, False) or isinstance(desirable, float):  # 1 and 0, too
        raise BadRecord(f"label: {label} is {desirable!r}, where true or false belongs")
    field = next((name for name in ANSWERS if record.get(name) is not None), "")
    said: Any = record.take(field) if field else None
    messages = prompt_of(record)
    if isinstance(said, str):
        answer = plain_text(said, field)
    else:  # the answer is the last turn
        whole: list[Message] = [*messages, *(turns(said, field, record) if field else [])]
        if not whole or whole[-1]["role"] != "assistant":
            raise BadRecord("no answer: the last turn is not the assistant's")
        *messages, last = whole
        answer = last["content"]
    return [{"prompt": messages, "answer": require_answer(messages, answer), "desirable": bool(desirable)}]


LAYOUT = Layout("single", _fits, _read)
