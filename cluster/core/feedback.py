"""What people say of a model's answers: thumbs, choices, edits; as a client sends it, and as a line of a log keeps it.

A log is a folder of files of JSON lines, one of each replica, so that no two write to the same. What is said later of
the same answer takes the place of what was said before, and a withdrawal takes back all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from cluster.core.storage.location import Location

A = TypeVar("A")  # an answer, as it is given or as it is kept

ENDING = ".jsonl"
SUPERSEDED = "said again: something later was said of the same answer"
WITHDRAWN = "withdrawn: whoever said it took it back"
WITHDRAWAL = "withdrawal: takes back what was said before"


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of the conversation before the answer."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Meta(min_length=1)]


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the answers were drawn, as far as the client asked for something."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: list[str] | None = None


class Given(Struct, frozen=True, forbid_unknown_fields=True):
    """An answer as a client gives it back, with the receipt that came with it."""

    receipt: str
    text: str = ""


class Answer(Struct, frozen=True, kw_only=True):
    """An answer as it is kept: what the receipt says of it, and its text. `artifact` is what answered."""

    id: str
    artifact: str
    endpoint: str
    request: str
    answered_at: float
    text: str


class Said(Struct, Generic[A], frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """Something that was said. `model` is the name that the client asked for."""

    model: str = ""
    consent: bool = False


class Judged(Said[A], Generic[A], frozen=True, kw_only=True):
    """Something that was said of an answer to a conversation."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    sampling: Sampling = Sampling()


class Thumb(Judged[A], Generic[A], frozen=True, kw_only=True, tag="thumb"):
    """An answer is wanted, or it is not."""

    answer: A
    thumb: Literal["up", "down"]


class Choice(Judged[A], Generic[A], frozen=True, kw_only=True, tag="choice"):
    """Of two answers one is better."""

    chosen: A
    rejected: A


class Edit(Judged[A], Generic[A], frozen=True, kw_only=True, tag="edit"):
    """What an answer should have been."""

    answer: A
    edit: Annotated[str, Meta(min_length=1)]


class Withdrawal(Said[A], Generic[A], frozen=True, kw_only=True, tag="withdrawal"):
    """All that was said of an answer counts no more."""

    answer: A


Sent = Thumb[Given] | Choice[Given] | Edit[Given] | Withdrawal[Given]
Kept = Thumb[Answer] | Choice[Answer] | Edit[Answer] | Withdrawal[Answer]


class Line(Struct, frozen=True, kw_only=True):
    """A line of the log. `key` is the id of the key that said it, empty where the endpoint asks for none."""

    id: str
    at: float
    key: str
    said: Kept


LINE = msgspec.json.Decoder(Line)


def answers(said: Judged[A] | Withdrawal[A]) -> list[A]:
    """The answers that something is said of."""
    if isinstance(said, Choice):
        return [said.chosen, said.rejected]
    assert isinstance(said, Thumb | Edit | Withdrawal)
    return [said.answer]


def read(place: Location) -> Iterator[tuple[str, Line | str]]:
    """Every line of a log with where it stands (`FILE:NUMBER`); where it is none of ours, why. A line that is being
    written is not there yet."""
    for name in place.names():
        if ENDING not in name:
            continue
        whole, _, _ = place.read_bytes(name).rpartition(b"\n")
        for number, data in enumerate(whole.splitlines(), 1):
            try:
                yield f"{name}:{number}", LINE.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                yield f"{name}:{number}", f"not a line of feedback: {error}"


def counting(lines: Iterable[Line]) -> tuple[list[Line], list[tuple[Line, str]]]:
    """The lines that count, in the order of time, and the others with the reason."""
    counted: dict[tuple[str, frozenset[tuple[str, str]]], Line] = {}
    others: list[tuple[Line, str]] = []
    for line in sorted(lines, key=lambda line: (line.at, line.id)):
        said = frozenset((answer.id, answer.text) for answer in answers(line.said))
        if isinstance(line.said, Withdrawal):
            ids = {answer.id for answer in answers(line.said)}
            gone = [key for key in counted if ids & {one for one, _ in key[1]}]
            others += [(counted.pop(key), WITHDRAWN) for key in gone]
            others.append((line, WITHDRAWAL))
            continue
        key = (type(line.said).__name__, said)
        if before := counted.pop(key, None):
            others.append((before, SUPERSEDED))
        counted[key] = line
    return list(counted.values()), others
