"""A batch's input: OpenAI's batch format, a request in each line. A bad line is answered by an error of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from cluster.core.errors import InputError
from serving.admission import GENERATED

CHUNK_BYTES = 1 << 20
URLS = (*GENERATED, "/v1/embeddings", "/v1/score", "/v1/rerank")


class Line(msgspec.Struct):
    """A line as OpenAI has it."""

    custom_id: str
    url: str
    body: dict[str, Any]
    method: Literal["POST"] = "POST"


class Asked(msgspec.Struct, frozen=True):
    """A request, by the number of its line (from 1)."""

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]


class Bad(msgspec.Struct, frozen=True):
    """A line that is no request, and why; its `custom_id`, where it has one."""

    number: int
    why: str
    custom_id: str | None = None


DECODER = msgspec.json.Decoder(Line)


def read(file: Path) -> Iterator[Asked | Bad]:
    """The lines that are not empty, in order. Raises InputError for a file that cannot be read."""
    seen: dict[str, int] = {}
    try:
        with file.open("rb") as opened:
            for number, text in enumerate(opened, 1):
                if text.strip():
                    yield _line(number, text, seen)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}", "Give a file of JSON lines.") from None


def _line(number: int, text: bytes, seen: dict[str, int]) -> Asked | Bad:
    try:
        line = DECODER.decode(text)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        return Bad(number, f"line {number}: {error}", _custom_id(text))
    if line.url not in URLS:
        return Bad(number, f"line {number}: url is {line.url!r}, and one of {', '.join(URLS)} is known", line.custom_id)
    if line.body.get("stream"):
        return Bad(number, f"line {number}: body.stream: a batch does not stream", line.custom_id)
    first = seen.setdefault(line.custom_id, number)
    if first != number:
        return Bad(number, f"line {number}: custom_id {line.custom_id!r} is line {first}'s already", line.custom_id)
    return Asked(number, line.custom_id, line.url, line.body)


def _custom_id(text: bytes) -> str | None:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    named = found.get("custom_id") if isinstance(found, dict) else None
    return named if isinstance(named, str) else None


def digest(file: Path) -> str:
    """SHA-256 (hex) of a file. Raises InputError where it cannot be read."""
    found = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(CHUNK_BYTES):
                found.update(chunk)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}", "Give a file of JSON lines.") from None
    return found.hexdigest()


class Answers:
    """Lines of the output. `identity` is of the batch: of its input, and of who answers."""

    def __init__(self, identity: str) -> None:
        self.identity = identity

    def id(self, number: int) -> str:
        """The name of a line's answer, the same whenever it is given."""
        return f"batch_req_{hashlib.sha256(f'{self.identity}/{number}'.encode()).hexdigest()[:24]}"

    def answered(self, asked: Asked, status: int, request_id: str, body: Any) -> bytes:
        """The line of an answer with an HTTP status, whichever."""
        response = {"status_code": status, "request_id": request_id, "body": body}
        return self._line(asked.number, asked.custom_id, response, None)

    def bad(self, bad: Bad) -> bytes:
        error = {"code": "invalid_line", "message": bad.why, "line": bad.number}
        return self._line(bad.number, bad.custom_id, None, error)

    def unanswered(self, asked: Asked, why: str, code: str = "unanswered") -> bytes:
        error = {"code": code, "message": f"line {asked.number}: {why}", "line": asked.number}
        return self._line(asked.number, asked.custom_id, None, error)

    def _line(self, number: int, custom_id: str | None, response: Any, error: Any) -> bytes:
        line = {"id": self.id(number), "custom_id": custom_id, "response": response, "error": error}
        return msgspec.json.encode(line) + b"\n"
