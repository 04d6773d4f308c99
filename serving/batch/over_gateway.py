"""A batch answered by the replica that keeps it: each request goes through its gateway as the key's owner sends it.

So it is admitted, limited and paid like any other. It waits as long as somebody else waits for the engine.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from serving.admission import Admission
from serving.asgi import ON_BEHALF, Application, Message, again, nobody_leaves, posted
from serving.batch.asking import REQUEST_ID, Asking, Found, Reply, drained, finished
from serving.batch.kept import NOBODY
from serving.batch.requests import Answers, Asked
from serving.batch.run import Answered

ATTEMPTS = 8
LOOK_SECONDS = 0.5  # between two looks whether a batch is to end
ROOM_SECONDS = 0.05  # between two looks whether nobody waits any more

LOGGER = logging.getLogger(__name__)

Stop = Literal["", "batch_cancelled", "batch_expired", "leaves"]
WHY = {"batch_cancelled": "the batch was cancelled", "batch_expired": "the batch expired before this was answered"}


class Leaves(Exception):
    """This replica goes, and another one goes on with the batch."""


class Room:
    """What the batches of one replica may take of its engine: some requests at once, and none while others wait."""

    def __init__(self, admission: Admission, concurrency: int) -> None:
        self.admission, self.concurrency = admission, concurrency
        self._places = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> None:
        await self._places.acquire()
        try:
            while self.admission.begun >= self.admission.running:
                await asyncio.sleep(ROOM_SECONDS)
        except BaseException:
            self._places.release()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._places.release()


@dataclass(frozen=True)
class OverGateway:
    """How a batch of a key is answered here. `stop` is asked, now and then, why it is to end."""

    gateway: Application
    loop: asyncio.AbstractEventLoop
    room: Room
    key: str
    stop: Callable[[], Stop]

    def __call__(self, todo: list[Asked], answers: Answers) -> Iterator[Answered]:
        """To be called in another thread than the loop's. Raises Leaves, or JobError for a key that counts no more."""
        found: Found = queue.SimpleQueue()
        work = finished(self._until_stopped(todo, answers, found), found)
        running = asyncio.run_coroutine_threadsafe(work, self.loop)
        left = {asked.number: asked for asked in todo}
        try:
            for number, line in drained(found):
                del left[number]
                yield number, line
        finally:
            running.cancel()
        if left:
            why = self.stop()
            if why not in WHY:
                raise Leaves
            for asked in left.values():
                yield asked.number, answers.unanswered(asked, WHY[why], why)

    async def _until_stopped(self, todo: list[Asked], answers: Answers, found: Found) -> None:
        asking = Asking(
            "this endpoint", self._ask, answers, found.put, attempts=ATTEMPTS, refusals=(401,), patient=True
        )
        work = asyncio.ensure_future(asking.all(todo, self.room.concurrency))
        try:
            while not work.done() and not self.stop():
                await asyncio.wait({work}, timeout=LOOK_SECONDS)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        if not work.cancelled():
            work.result()

    async def _ask(self, asked: Asked, body: bytes) -> Reply:
        request_id = secrets.token_hex(16)
        headers = {REQUEST_ID: request_id}
        status, data = 0, bytearray()

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                headers.update((name.decode(), value.decode("latin-1")) for name, value in message.get("headers", ()))
                headers[REQUEST_ID] = request_id
            data.extend(message.get("body", b""))

        scope = posted(asked.url, body, {REQUEST_ID: request_id})
        if self.key != NOBODY:
            scope[ON_BEHALF] = self.key
        async with self.room:
            try:
                await self.gateway(scope, again(body, nobody_leaves), send)
            except Exception:  # which a server would have answered so
                LOGGER.exception("a request of a batch failed")
                return Reply(500, headers, b'{"error": {"message": "the server failed", "type": "server_error"}}')
        return Reply(status, headers, bytes(data))
