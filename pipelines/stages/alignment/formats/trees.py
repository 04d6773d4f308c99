"""Trees of OpenAssistant: wherever several answers to one dialogue were ranked, they are compared.

Messages that were deleted or turned down by the reviewers are left out with all that replies to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.stages.alignment.formats.layout import Layout, NothingCompared, Row, number, ordered
from pipelines.stages.tuning.conversation import Message, Unusable
from pipelines.stages.tuning.formats.record import Record, plain_text
from pipelines.stages.tuning.formats.turns import ROLES


def _fits(record: Record) -> bool:
    prompt = record.get("prompt")
    return isinstance(prompt, dict) and "text" in prompt and "role" in prompt


def _read(record: Record) -> list[Row]:
    record.take("message_tree_id")
    found = list(_compared([], record.take("prompt"), record))
    if not found:
        raise NothingCompared("nothing to compare: a tree without two ranked answers to one dialogue")
    return found


def _compared(before: list[Message], node: dict[str, Any], record: Record) -> Iterator[Row]:
    """The rows of the answers to a message and of all below them."""
    if node.get("deleted") or node.get("review_result") is False:
        record.notes.append("message of a tree, deleted or turned down: left out with its replies")
        return
    role = ROLES.get(str(node.get("role")), str(node.get("role")))
    dialogue: list[Message] = [*before, {"role": role, "content": plain_text(node.get("text"), "text")}]
    replies = [reply for reply in node.get("replies") or [] if isinstance(reply, dict)]
    kept = [r for r in replies if not r.get("deleted") and r.get("review_result") is not False]
    ranked = [reply for reply in kept if reply.get("rank") is not None]
    if role == "user" and len(ranked) > 1:
        texts = [plain_text(reply.get("text"), "text") for reply in ranked]
        try:
            yield from ordered(record, dialogue, texts, [number(r["rank"], "rank") for r in ranked], ranks=True)
        except Unusable as error:
            record.notes.append(f"answers of a tree, left out: {str(error).partition(':')[0]}")
    for reply in replies:
        yield from _compared(dialogue, reply, record)


LAYOUT = Layout("oasst", _fits, _read)
