"""Trees of OpenAssistant: every path from the prompt to an answer that no further answer follows is a conversation.

Paths share their beginnings, so an answer is learned in the first path that has it, and in the others it is read only
(`learn` false): each answer of a tree is learned once. Messages that were deleted or turned down by the reviewers are
left out with all that replies to them. Answers of every rank count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.stages.tuning.conversation import BadRecord, Conversation, Message, Unusable
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.record import Record, plain_text
from pipelines.stages.tuning.formats.turns import ROLES

KNOWN = frozenset({"message_id", "parent_id", "text", "role", "replies", "deleted", "review_result"})


def _fits(record: Record) -> bool:
    prompt = record.get("prompt")
    return isinstance(prompt, dict) and "text" in prompt and "role" in prompt


def _read(record: Record) -> list[Conversation]:
    record.take("message_tree_id")
    prompt = record.take("prompt")
    if not isinstance(prompt, dict):
        raise BadRecord("missing: prompt, the first message of a tree")
    found: list[Conversation] = []
    learned: set[int] = set()
    for path in _paths([prompt], record):
        found.append({"messages": [_message(node, learned) for node in path]})
    if not found:
        raise Unusable("empty answer: a tree without an answer")
    return found


def _message(node: dict[str, Any], learned: set[int]) -> Message:
    message: Message = {
        "role": ROLES.get(str(node.get("role")), str(node.get("role"))),
        "content": plain_text(node.get("text"), "text"),
    }
    if message["role"] == "assistant" and id(node) in learned:
        message["learn"] = False
    learned.add(id(node))
    return message


def _paths(path: list[dict[str, Any]], record: Record) -> Iterator[list[dict[str, Any]]]:
    """The paths that go on from `path` to a last answer, in the order of the file."""
    node = path[-1]
    if node.get("deleted") or node.get("review_result") is False:
        record.notes.append("message of a tree, deleted or turned down: left out with its replies")
        return
    record.notes += [f"field of a turn, left out: {field}" for field in node.keys() - KNOWN if node[field] is not None]
    is_answered = False
    for reply in node.get("replies") or []:
        if not isinstance(reply, dict):
            raise BadRecord("no turns: a reply of a tree is no message")
        for longer in _paths([*path, reply], record):
            is_answered = True
            yield longer
    if not is_answered and node.get("role") == "assistant":
        yield path


def _row_fits(record: Record) -> bool:
    return {"message_id", "parent_id", "text", "role"} <= record.keys()


def _row_read(record: Record) -> list[Conversation]:
    raise BadRecord("a message of a tree, one a record: give the set's file of whole trees (..._trees.jsonl.gz)")


TREES = Layout("oasst", ("prompt",), _fits, _read)
ROWS = Layout("oasst-messages", ("message_id",), _row_fits, _row_read)
