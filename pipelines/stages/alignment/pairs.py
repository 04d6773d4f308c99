"""The layouts of preference files: a prompt with a chosen and a rejected answer, or two dialogues that share a prompt.

`prompt` is text or messages (ShareGPT's `conversations` will do); an answer is text, a message, or a list that ends
with it. Without a prompt, `chosen` and `rejected` are whole dialogues: messages, or text as in Anthropic's HH-RLHF.
"""

from __future__ import annotations

import re
from typing import Any

from pipelines.stages.tuning.conversation import BadRecord, Message, checked
from pipelines.stages.tuning.formats.record import Record, plain_text
from pipelines.stages.tuning.formats.turns import turn, turns

SPEAKER = re.compile(r"(?:\A|\n)\n(Human|Assistant): ?")


def pair(record: dict[str, Any]) -> dict[str, Any]:
    """`prompt` (messages), `chosen` and `rejected` (texts) of a record. Raises BadRecord."""
    prompt = _prompt(record)
    if prompt:
        chosen, rejected = (_answer(record, side, prompt) for side in ("chosen", "rejected"))
    else:
        dialogues = {side: checked(_dialogue(record, side)) for side in ("chosen", "rejected")}
        prompt = dialogues["chosen"][:-1]
        if dialogues["rejected"][:-1] != prompt:
            raise BadRecord("chosen and rejected do not answer the same prompt")
        chosen, rejected = (_said(dialogues[side][-1]) for side in ("chosen", "rejected"))
    for answer in (chosen, rejected):
        checked([*prompt, {"role": "assistant", "content": answer}])
    if chosen == rejected:
        raise BadRecord("chosen and rejected are the same")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _prompt(record: dict[str, Any]) -> list[Message]:
    """The messages of the prompt; none where the record has no prompt of its own."""
    if isinstance(record.get("prompt"), str):
        return [{"role": "user", "content": plain_text(record["prompt"], "prompt")}]
    if "prompt" in record:
        return turns(record["prompt"], "prompt", Record({}))
    if "conversations" not in record:
        return []
    return turns(record["conversations"], "conversations", Record({}))


def _answer(record: dict[str, Any], side: str, prompt: list[Message]) -> str:
    value = record.get(side)
    if isinstance(value, dict):
        return _said(turn(value, side))
    if isinstance(value, list):
        dialogue = _dialogue(record, side)
        if dialogue[:-1] not in ([], prompt):
            raise BadRecord(f"{side}: does not answer the prompt")
        return _said(dialogue[-1])
    return plain_text(record.get(side), side)


def _dialogue(record: dict[str, Any], side: str) -> list[Message]:
    value = record.get(side)
    if isinstance(value, list) and value:
        return [turn(entry, f"{side}[{index}]") for index, entry in enumerate(value)]
    _, *said = SPEAKER.split(plain_text(record.get(side), side))
    if not said:
        raise BadRecord(f"{side}: no prompt, and no dialogue of Human and Assistant either")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[name], "content": words} for name, words in zip(said[::2], said[1::2], strict=True)]


def _said(answer: Message) -> str:
    """What an answer says; one that thinks or calls tools as well is no mere text."""
    if beyond := answer.keys() - {"role", "content", "learn"}:
        raise BadRecord(f"an answer is more than text: {', '.join(sorted(beyond))}")
    return answer["content"]
