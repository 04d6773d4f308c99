"""A list of turns: OpenAI's `messages`, ShareGPT's `conversations`, and what is called alike."""

from __future__ import annotations

from pipelines.stages.tuning.conversation import BadRecord, Conversation
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.record import Record, conversation
from pipelines.stages.tuning.formats.turns import turns

LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog")


def _read(record: Record) -> list[Conversation]:
    """Turns of role and content, or of from and value, or texts by turns; `system` and `tools` may stand beside."""
    return [dialogue(record)]


def dialogue(record: Record) -> Conversation:
    """The conversation of the one field that holds turns."""
    found = [name for name in (*LISTS, "data") if record.get(name) is not None]
    if not found:
        raise BadRecord(f"missing: {LISTS[0]}, a list of turns")
    if len(found) > 1:
        raise BadRecord(f"two dialogues: {' and '.join(found)}")
    messages = turns(record.take(found[0]), found[0], record)
    return conversation(record, messages)


def _is_list(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def _sharegpt_fits(record: Record) -> bool:
    data = record.get("data")  # UltraChat: the turns as texts
    is_ultrachat = isinstance(data, list) and bool(data) and isinstance(data[0], str)
    return is_ultrachat or any(_is_list(record.get(name)) for name in LISTS[1:])


MESSAGES = Layout("messages", ("messages",), lambda record: _is_list(record.get("messages")), _read)
SHAREGPT = Layout("sharegpt", (*LISTS[1:], "data"), _sharegpt_fits, _read)
