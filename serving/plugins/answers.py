"""The one answer that a client gets of several turns of a model: streamed, or whole.

Plug-ins are told where they run: in a stream by chunks of its own form with an empty delta and a `plugin` beside, which
clients that know nothing of plug-ins pass over; in a whole answer by a list `plugins`.
"""

from __future__ import annotations

import json
from typing import Any

from serving.asgi import Message, Send

COUNTED = ("prompt_tokens", "completion_tokens", "total_tokens")
OF_A_TURN = (b"content-length", b"transfer-encoding", b"x-request-id")  # headers that the whole answer has itself
SERVER_ERROR = "server_error"


class Usage:
    """Tokens of all turns."""

    def __init__(self) -> None:
        self.total = dict.fromkeys(COUNTED, 0)

    def add(self, usage: dict[str, Any] | None) -> None:
        for name in COUNTED:
            self.total[name] += (usage or {}).get(name) or 0


class Streamed:
    """An answer as server-sent events."""

    def __init__(self, send: Send, asked: dict[str, Any]) -> None:
        options = asked.get("stream_options")
        self._send, self._with_usage = send, isinstance(options, dict) and bool(options.get("include_usage"))
        self._identity: dict[str, Any] = {}
        self.usage, self.begun = Usage(), False

    async def begin(self, start: Message) -> None:
        if not self.begun:
            self.begun = True
            await self._send({**start, "headers": [p for p in start["headers"] if p[0].lower() not in OF_A_TURN]})

    async def chunk(self, chunk: dict[str, Any], **changes: Any) -> None:
        """Pass on a chunk of a turn, as one of the first turn's."""
        if not self._identity:
            self._identity = {name: chunk[name] for name in ("id", "object", "created", "model") if name in chunk}
        plain = {name: value for name, value in chunk.items() if name != "usage"}  # told once, of all turns
        await self._event({**plain, **self._identity, **changes})

    async def plugin(self, told: dict[str, Any]) -> None:
        nothing = [{"index": 0, "delta": {}, "finish_reason": None}]
        await self._event({**self._identity, "choices": nothing, "plugin": told})

    async def error(self, status: int, headers: list[Any], body: bytes) -> None:
        """Tell an error: as it is where nothing was said yet, else as the last event."""
        if not self.begun:
            await _whole(self._send, status, headers, body)
            return
        await self._event(_error(body))
        await self._done()

    async def end(self, last: dict[str, Any]) -> None:
        """The last chunk, and the usage of all turns where the client wants it."""
        await self.chunk(last)
        if self._with_usage:
            await self._event({**self._identity, "choices": [], "usage": self.usage.total})
        await self._done()

    async def _event(self, event: dict[str, Any]) -> None:
        data = f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _done(self) -> None:
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


class Whole:
    """An answer as one body: the last turn's, with what all turns said."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._texts: list[str] = []
        self._plugins: list[dict[str, Any]] = []
        self._headers: list[Any] = []
        self.usage = Usage()

    async def begin(self, start: Message) -> None:
        self._headers = self._headers or [p for p in start["headers"] if p[0].lower() not in OF_A_TURN]

    def say(self, text: str) -> None:
        self._texts.append(text)

    async def plugin(self, told: dict[str, Any]) -> None:
        if told["state"] != "running":
            self._plugins.append(told)

    async def error(self, status: int, headers: list[Any], body: bytes) -> None:
        await _whole(self._send, status, headers, body)

    async def end(self, reply: dict[str, Any]) -> None:
        message = reply["choices"][0]["message"]
        text = "".join(self._texts)
        message["content"] = text if text or message.get("content") is not None else None
        whole = {**reply, "usage": {**(reply.get("usage") or {}), **self.usage.total}, "plugins": self._plugins}
        await _whole(self._send, 200, self._headers, json.dumps(whole, ensure_ascii=False).encode())


Answer = Streamed | Whole


async def _whole(send: Send, status: int, headers: list[Any], body: bytes) -> None:
    kept = [pair for pair in headers if pair[0].lower() not in OF_A_TURN]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*kept, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _error(body: bytes) -> dict[str, Any]:
    """An error in OpenAI's shape, of whatever the body is."""
    try:
        told = json.loads(body)
        if isinstance(told, dict) and isinstance(told.get("error"), dict):
            return {"error": told["error"]}
    except ValueError:
        pass
    return {"error": {"message": "the answer broke off", "type": SERVER_ERROR, "param": None, "code": None}}
