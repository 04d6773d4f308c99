"""A chosen and a rejected answer: to a prompt of its own, or at the end of two dialogues that share one.

A prompt is text (`prompt`, `instruction` with `input`, `question`, with `system` and `history` beside) or turns
(ShareGPT's `conversations` will do); an answer is text, a message, or a list that ends with it. Without a prompt,
`chosen` and `rejected` are whole dialogues: turns, or text as in Anthropic's HH-RLHF.
"""

from __future__ import annotations

from typing import Any

from pipelines.stages.alignment.formats.layout import (
    IN_A_PROMPT,
    Layout,
    Row,
    dialogue,
    has_prompt,
    number,
    pair,
    prompt_of,
    with_system,
)
from pipelines.stages.tuning.conversation import BadRecord, Message, checked
from pipelines.stages.tuning.formats.record import Record, plain_text
from pipelines.stages.tuning.formats.turns import turn, turns

TIES = ("tie", "is_tie")
SIDES = (("chosen", "rejected"), ("response_chosen", "response_rejected"))
MARGINS = ("margin", "mean preference difference")  # the second is of MOSS-RLHF's HH-RLHF (arXiv:2401.06080)
SCORES = (  # of the chosen and of the rejected answer
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)


def _sides(record: Record) -> tuple[str, str] | None:
    return next((sides for sides in SIDES if all(side in record for side in sides)), None)


def _read_prompted(record: Record) -> list[Row]:
    sides = _sides(record) or SIDES[0]
    prompt = prompt_of(record)
    chosen, rejected = (_answer(record, side, prompt) for side in sides)
    if IN_A_PROMPT in record.notes:  # which ends with `Assistant:`, and the blank behind it begins the answer
        chosen, rejected = chosen.removeprefix(" "), rejected.removeprefix(" ")
    return [pair(prompt, chosen, rejected, *_strength(record))]


def _read_dialogues(record: Record) -> list[Row]:
    better, worse = (checked(_dialogue(record, side)) for side in SIDES[0])
    if better[:-1] != worse[:-1]:
        raise BadRecord("chosen and rejected do not answer the same prompt")
    prompt = with_system(record, better[:-1])
    return [pair(prompt, _said(better[-1]), _said(worse[-1]), *_strength(record))]


def _strength(record: Record) -> tuple[float | None, bool]:
    """How much better the chosen answer is, where the record says so, and whether it is not better at all."""
    said = [record.take(name) for name in TIES]
    if any(said):
        return None, True
    for name in MARGINS:
        if record.get(name) is not None:
            return number(record.take(name), name), False
    for names in SCORES:
        if record.has(*names):
            high, low = (number(record.take(name), name) for name in names)
            return high - low, high == low
    return None, False


def _answer(record: Record, side: str, prompt: list[Message]) -> str:
    value = record.take(side)
    if isinstance(value, dict):
        return _said(turn(value, side))
    if isinstance(value, list):
        said = _turns(value, side)
        if said[:-1] not in ([], prompt):
            raise BadRecord(f"{side}: does not answer the prompt")
        return _said(said[-1])
    return plain_text(value, side)


def _dialogue(record: Record, side: str) -> list[Message]:
    value = record.take(side)
    if isinstance(value, list) and value:
        return _turns(value, side)
    if found := dialogue(plain_text(value, side)):
        return found
    raise BadRecord(f"{side}: no prompt, and no dialogue of Human and Assistant either")


def _turns(value: list[Any], side: str) -> list[Message]:
    """Turns; texts of user and assistant by turns, as MOSS-RLHF has them."""
    if all(isinstance(entry, str) for entry in value):
        return turns(value, side, Record({}))
    return [turn(entry, f"{side}[{index}]") for index, entry in enumerate(value)]


def _said(answer: Message) -> str:
    """What an answer says; one that thinks or calls tools as well is no mere text."""
    if beyond := answer.keys() - {"role", "content", "learn"}:
        raise BadRecord(f"an answer is more than text: {', '.join(sorted(beyond))}")
    return answer["content"]


PROMPTED = Layout("pairs", lambda record: bool(_sides(record)) and has_prompt(record), _read_prompted)
DIALOGUES = Layout("dialogues", lambda record: _sides(record) == SIDES[0], _read_dialogues)
