"""What an answer tells of the tokens that it took, read as it passes.

vLLM is asked to tell the usage with every event of a stream, so that of one that is cut it is known, too. A client that
did not ask for this does not see it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

# In an event's JSON, whose texts have their quotes escaped, this can only be the field itself.
USAGE = re.compile(rb',"usage":\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}')
STREAMED = ("/v1/chat/completions", "/v1/completions")


class Usage(msgspec.Struct):
    """Tokens as the two dialects of the API name them."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> tuple[int, int]:
        return self.prompt_tokens + self.input_tokens, (self.completion_tokens or 0) + self.output_tokens


class Choice(msgspec.Struct):
    index: int = 0


class Response(msgspec.Struct):
    usage: Usage | None = None


class Told(msgspec.Struct):
    """Of an answer or an event, what it tells of usage."""

    usage: Usage | None = None
    response: Response | None = None
    choices: list[Choice] | None = None


TOLD = msgspec.json.Decoder(Told)


def with_usage(path: str, asked: dict[str, Any], body: bytes) -> bytes:
    """The body that asks a stream to tell its usage. What is added behind counts, as of two equal names the last does;
    all before it stays as the client wrote it."""
    given = asked.get("stream_options")
    if path not in STREAMED or not asked.get("stream") or not isinstance(given, dict | None):
        return body
    options = {**(given or {}), "include_usage": True, "continuous_usage_stats": True}
    return body.rstrip()[:-1] + b',"stream_options":' + msgspec.json.encode(options) + b"}"


class Answer:
    """One answer on its way to the client."""

    def __init__(self, path: str, asked: dict[str, Any]) -> None:
        options = asked.get("stream_options")
        options = options if isinstance(options, dict) else {}
        asks = path in STREAMED
        self._last_usage = bool(options.get("include_usage")) or not asks
        self._every_usage = self._last_usage and (bool(options.get("continuous_usage_stats")) or not asks)
        self._answers = max(1, asked["n"]) if isinstance(asked.get("n"), int) else 1
        self.status, self.events, self.ended = 0, 0, False
        self._streamed = False
        self._rest = b""  # of a stream what has no end yet; else the whole answer
        self._by_choice: dict[int, tuple[int, int]] = {}
        self._total: tuple[int, int] | None = None

    def begin(self, message: Any) -> None:
        """Take the status and the headers."""
        self.status = int(message["status"])
        kind = next((value for name, value in message.get("headers", ()) if name.lower() == b"content-type"), b"")
        self._streamed = kind.startswith(b"text/event-stream")

    def take(self, body: bytes, more: bool) -> bytes:
        """What the client gets of the next piece."""
        self.ended = not more
        if not self._streamed:
            self._rest += body
            if not more and self.status < 400:
                self._read(self._rest)
            return body
        *events, self._rest = (self._rest + body).split(b"\n\n")
        passed = b"".join(map(self._event, events))
        return passed if more else passed + self._rest

    def _event(self, event: bytes) -> bytes:
        whole = event + b"\n\n"
        begins = 6 if event.startswith(b"data: ") else event.find(b"\ndata: ") + 7
        if begins == 6 and not event.startswith(b"data: {"):
            return whole  # a comment that keeps a connection alive, or the end
        self.events += 1
        if b'"usage":{' not in event:
            return whole
        last = self._read(event[begins:])
        if self._every_usage or (last and self._last_usage):
            return whole
        return b"" if last else USAGE.sub(b"", event, 1) + b"\n\n"

    def _read(self, text: bytes) -> bool:
        """Take the usage out of an answer or event. Whether it is that of the whole request."""
        try:
            told = TOLD.decode(text)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return False  # nothing of ours: the client gets it as it is
        usage = told.usage or (told.response.usage if told.response else None)
        if usage is None:
            return False
        if self._streamed and told.choices:
            for choice in told.choices:
                self._by_choice[choice.index] = usage.tokens
            return False
        self._total = usage.tokens
        return True

    def tokens(self) -> tuple[int, int] | None:
        """Tokens of prompt and answers, of those that were cut as far as they came; None where nothing tells."""
        if self._total is not None or not self._by_choice:
            return self._total
        prompts = sum(prompt for prompt, _ in self._by_choice.values())
        return -(-prompts // self._answers), sum(answer for _, answer in self._by_choice.values())
