"""One layout of preferences, and the rows that all of them are read into.

A row has a `prompt`, turns that a user's ends, and one of: `chosen` and `rejected`, the better answer and the worse,
with a `margin` where the record says how much better, or with `tie` true where neither is; `ranked`, three answers or
more, the best first; `answer` and `desirable`, one answer that is wanted or not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pipelines.stages.tuning.conversation import BadRecord, Message, Unusable, checked
from pipelines.stages.tuning.formats.record import SYSTEMS, Record, joined, plain_text
from pipelines.stages.tuning.formats.turns import turns

Row = dict[str, Any]
LISTS = ("conversations", "conversation", "messages")
REQUESTS = ("prompt", "instruction", "question", "query")
SPEAKERS = [  # with an empty line between turns, else without
    re.compile(rf"(?:\A\n*|{between})(Human|User|Assistant):(?: |(?=\n|\Z))") for between in (r"\n\n", r"\n")
]
ROLES = {"Human": "user", "User": "user", "Assistant": "assistant"}
IN_A_PROMPT = "dialogue in a prompt, read into turns"
SAME = "chosen and rejected are the same"


@dataclass(frozen=True)
class Layout:
    """`read` takes from a record what it understands, and gives its rows. Raises BadRecord. `fits` alters nothing."""

    name: str
    fits: Callable[[Record], bool]
    read: Callable[[Record], list[Row]]


class NothingCompared(Unusable):
    """A record of its format in which no answer was preferred: no sign that the file is broken."""


def has_prompt(record: Record) -> bool:
    return any(name in record for name in (*REQUESTS, *LISTS))


def prompt_of(record: Record) -> list[Message]:
    """The turns of a record's prompt, with the system turn and the earlier turns that stand beside it."""
    field = next((name for name in (*REQUESTS, *LISTS) if record.get(name) is not None), "prompt")
    value = record.take(field)
    if isinstance(value, str) and (said := dialogue(plain_text(value, field))):
        if not said[-1]["content"]:
            del said[-1]  # who is to speak
        record.notes.append(IN_A_PROMPT)
        found: list[Message] = [*history(record), *said]
    elif isinstance(value, str):
        asked = joined([plain_text(value, field), record.text("input", optional=True)])
        found = [*history(record), {"role": "user", "content": asked}]
    else:
        found = [*history(record), *turns(value, field, record)]
    return with_system(record, found)


def dialogue(text: str) -> list[Message]:
    """The turns of a text as Anthropic's HH-RLHF has it, which a line names the speaker of; empty for another text."""
    for speaker in SPEAKERS:
        before, *said = speaker.split(text)
        if not before and "Assistant" in said[::2]:
            return [{"role": ROLES[name], "content": words} for name, words in zip(said[::2], said[1::2], strict=True)]
    return []


def history(record: Record) -> list[Message]:
    """Earlier turns: pairs of request and answer."""
    value = record.take("history") or []
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise BadRecord("history: not a list of pairs of request and answer")
    return turns([text for pair in value for text in pair], "history", record) if value else []


def with_system(record: Record, messages: list[Message]) -> list[Message]:
    """The turns behind the system prompt that stands beside them."""
    for field in SYSTEMS:
        if value := record.take(field):
            text = plain_text(value, field)
            if not messages or messages[0]["role"] != "system":
                return [{"role": "system", "content": text}, *messages]
            if messages[0]["content"] != text:
                raise BadRecord(f"two system turns: {field} beside the turns is not what the first turn says")
    return messages


def require_answer(prompt: list[Message], answer: str) -> str:
    """The answer, if it can follow the prompt and says something. Raises BadRecord."""
    checked([*prompt, {"role": "assistant", "content": answer}])
    return answer


def pair(prompt: list[Message], chosen: str, rejected: str, margin: float | None = None, tie: bool = False) -> Row:
    """A row of two answers. Raises BadRecord where one is no answer, where they are the same, or where the margin says
    that the rejected one is better."""
    for answer in (chosen, rejected):
        require_answer(prompt, answer)
    if chosen == rejected:
        raise Unusable(SAME)
    if margin is not None and margin < 0:
        raise Unusable(f"contradicts its scores: by {-margin:g} the rejected answer is better")
    row: Row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if tie:
        return row | {"tie": True}
    return row if margin is None else row | {"margin": margin}


def ordered(
    record: Record, prompt: list[Message], answers: Sequence[str], scores: Sequence[float], ranks: bool
) -> list[Row]:
    """Rows of answers with scores, of which the higher is the better (`ranks`: the lower, and they are no distances).

    All differ: one list, or a pair with its margin. Else the pairs, ties among them. An answer that is empty or there
    before is left out and noted.
    """
    known: dict[str, float] = {}
    for answer, score in sorted(zip(answers, scores, strict=True), key=lambda one: one[1] if ranks else -one[1]):
        if not answer.strip():
            record.notes.append("empty answer in a list, left out")
        elif answer in known:
            record.notes.append("answer that stands twice in a list, left out where it is worse")
        else:
            known[require_answer(prompt, answer)] = score
    if len(known) < 2:
        raise NothingCompared("nothing to compare: fewer than two answers that say something and differ")
    if len(known) > 2 and len(set(known.values())) == len(known):
        return [{"prompt": prompt, "ranked": list(known)}]
    return [
        pair(prompt, one, other, None if ranks or high == low else abs(high - low), high == low)
        for (one, high), (other, low) in combinations(known.items(), 2)
    ]


def number(value: Any, where: str) -> float:
    """A finite number, which may be written as text. Raises BadRecord."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise BadRecord(f"score: {where} is {value!r}, where a number belongs")
    return found
