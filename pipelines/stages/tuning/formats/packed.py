"""Dialogues that were written into one text, with the speakers' names before what they say."""

from __future__ import annotations

import re

from pipelines.stages.tuning.conversation import BadRecord, Conversation, Message
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.record import Record, conversation

SPEAKERS = (  # the marks of the user and of the assistant
    ("<user>:", "<bot>:"),  # HuaTuo
    ("Human:", "Assistant:"),  # BELLE, where they begin a line
    ("### Human:", "### Assistant:"),  # Guanaco
    ("[Human]:", "[MOSS]:"),  # MOSS 002
)
ENDS = re.compile(r"\s*(?:<eo[a-z]>|</s>)\s*\Z")
AT_LINE = r"^[ \t]*"  # where a name is a plain word, which may stand in a sentence
SPLITTERS = [
    re.compile(rf"{AT_LINE if user.isalnum() else ''}({user}|{assistant}):", re.MULTILINE)
    for user, assistant in ((re.escape(user[:-1]), re.escape(assistant[:-1])) for user, assistant in SPEAKERS)
]


def speakers(text: str) -> int | None:
    """Which of `SPEAKERS` a text begins with as the user; None where it is no dialogue."""
    begun = text.lstrip() if text[:1].isspace() else text
    return next((number for number, (user, _) in enumerate(SPEAKERS) if begun.startswith(user)), None)


def unpacked(text: str, which: int) -> list[Message]:
    """The turns of a dialogue; the end marks of a turn are taken off. Raises BadRecord where it is none."""
    user, _ = SPEAKERS[which]
    before, *said = SPLITTERS[which].split(text)
    if before.strip():
        raise BadRecord(f"no dialogue: it does not begin with {user}")
    found: list[Message] = []
    for name, words in zip(said[::2], said[1::2], strict=True):
        found.append({"role": "user" if f"{name}:" == user else "assistant", "content": ENDS.sub("", words).strip()})
    return found


def _fits(record: Record) -> bool:
    instruction = record.get("instruction")
    return isinstance(instruction, str) and "output" in record and speakers(instruction) is not None


def _read(record: Record) -> list[Conversation]:
    """`instruction` holds the dialogue up to the last request (or the name of who answers), `output` the answer."""
    instruction = record.text("instruction")
    which = speakers(instruction)
    if which is None:
        raise BadRecord(f"no dialogue: instruction begins with none of {', '.join(user for user, _ in SPEAKERS)}")
    messages = unpacked(instruction, which)
    if messages[-1]["role"] == "assistant" and not messages[-1]["content"]:  # "Assistant:", which output goes on with
        messages.pop()
    if more := record.text("input", optional=True):
        messages[-1]["content"] += f"\n{more}"
    messages.append({"role": "assistant", "content": record.text("output")})
    return [conversation(record, messages)]


def _text_fits(record: Record) -> bool:
    return any(
        isinstance(record.get(name), str) and speakers(record[name]) is not None for name in ("text", "plain_text")
    )


def _text_read(record: Record) -> list[Conversation]:
    """`text` (Guanaco) or `plain_text` (MOSS 002, `prefix` its system prompt) holds the whole dialogue."""
    field = "plain_text" if "plain_text" in record else "text"
    text = record.text(field)
    which = speakers(text)
    if which is None:
        raise BadRecord(f"no dialogue: {field} begins with none of {', '.join(user for user, _ in SPEAKERS)}")
    if field == "plain_text" and record.get("prefix"):
        record["system"] = record.take("prefix")
    return [conversation(record, unpacked(text, which))]


PACKED = Layout("packed", ("instruction",), _fits, _read)
TEXT = Layout("text", ("text", "plain_text"), _text_fits, _text_read)
