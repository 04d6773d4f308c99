"""A share of an endpoint's requests, answered by another version: a canary, or a shadow whose answers nobody gets.

The replica of the version that stands passes them on to the other's by Serve's handle: a hop more for that share alone,
and no route or port that clients could reach without a key. Who is asked follows from what a conversation begins with,
or from `user`, so that it does not change between two turns. All that counts is taken at this end for both versions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from serving.admission import COMPUTED
from serving.asgi import Application, Message, Receive, Scope, Send, again

LOGGER = logging.getLogger("ray.serve")
Ask = Callable[[str, list[tuple[bytes, bytes]], bytes], AsyncIterator[Message]]
Answered = tuple[str, float, float, bool]  # by which version; seconds to its first piece, and to its end; failed
Note = Callable[[str, list[Answered], list[dict[str, str]]], Awaitable[Any]]
NOTE_SECONDS = 1.0
SHADOWS = 8  # at once: a shadow that is slower than what it shadows is asked less


class Share(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which application answers what part of the requests; `shadow`: a copy of them, whose answers are kept."""

    application: str
    weight: float
    shadow: bool = False


class Split:
    """An ASGI application around another, of which it passes a share of the requests on."""

    def __init__(self, app: Application, open_ask: Callable[[str], Ask], note: Note) -> None:
        self.app, self._open_ask, self._note = app, open_ask, note
        self.share: Share | None = None
        self._ask: Ask | None = None
        self._answers: list[Answered] = []
        self._pairs: list[dict[str, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._noting = False

    def set_share(self, share: Share | None) -> None:
        """Pass another share on from the next request on."""
        self.share = share
        self._ask = self._open_ask(share.application) if share else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        share, ask = self.share, self._ask
        path = str(scope.get("path", ""))
        if share is None or ask is None or scope["type"] != "http" or not path.endswith(COMPUTED):
            await self.app(scope, receive, send)
            return
        message = await receive()  # whole: the gateway has read it
        body = message.get("body", b"")
        taken = part(body) < share.weight
        if taken and not share.shadow:
            await self._timed("canary", send, lambda told: self._pass_on(ask, scope, body, told))
            return
        stable = _Copy(send) if taken else None
        if stable is not None and len(self._tasks) < SHADOWS:
            self._do(self._shadow(ask, scope, body, stable))
        await self._timed("stable", stable or send, lambda told: self.app(scope, again(body, receive), told))

    async def _timed(self, which: str, send: Send, answer: Callable[[Send], Awaitable[None]]) -> None:
        """Let a version answer, and take what counts of it."""
        began, first, status, ended = time.monotonic(), 0.0, 500, False

        async def told(message: Message) -> None:
            nonlocal first, status, ended
            if message["type"] == "http.response.start":
                status = int(message["status"])
            else:
                first = first or time.monotonic() - began
                ended = not message.get("more_body")
            await send(message)

        try:
            await answer(told)
        finally:
            if ended or status >= 500:  # else its client has left, which tells nothing of it
                self._answers.append((which, first, time.monotonic() - began, status >= 500))
                self._note_soon()

    async def _pass_on(self, ask: Ask, scope: Scope, body: bytes, send: Send) -> None:
        async for message in ask(str(scope["path"]), list(scope["headers"]), body):
            await send(message)

    async def _shadow(self, ask: Ask, scope: Scope, body: bytes, stable: _Copy) -> None:
        """Ask the shadow the same, and keep the pair. What fails is of no concern to the client."""
        shadow = _Copy(_nowhere)
        try:
            await self._timed("canary", shadow, lambda told: self._pass_on(ask, scope, body, told))
            await stable.ended.wait()
        except Exception:
            LOGGER.exception("a shadow did not answer")
            return
        self._pairs.append({"asked": body.decode(errors="replace"), "stable": stable.text, "shadow": shadow.text})
        self._note_soon()

    def _note_soon(self) -> None:
        """Tell what came of answers, once a second."""
        if self._noting:
            return
        self._noting = True

        async def soon() -> None:
            await asyncio.sleep(NOTE_SECONDS)
            self._noting = False
            answers, pairs, self._answers, self._pairs = self._answers, self._pairs, [], []
            if self.share is not None:
                await self._note(self.share.application, answers, pairs)

        self._do(soon())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin what ends whether or not its request does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Copy:
    """Sends on, and keeps what was sent."""

    def __init__(self, send: Send) -> None:
        self._send, self.told, self.ended = send, bytearray(), asyncio.Event()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.told += message.get("body", b"")
            if not message.get("more_body"):
                self.ended.set()
        await self._send(message)

    @property
    def text(self) -> str:
        return self.told.decode(errors="replace")


async def _nowhere(message: Message) -> None:
    pass


def part(body: bytes) -> float:
    """Where a request lies between 0 and 1: by its user, else by what its conversation or prompt begins with."""
    try:
        asked = json.loads(body)
    except ValueError:
        return 1.0
    messages = asked.get("messages")
    given = messages[:2] if isinstance(messages, list) else asked.get("prompt") or asked.get("input")
    digest = hashlib.sha256(json.dumps(asked.get("user") or given, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
