"""A batch answered by a running endpoint: so many requests at once, asked again where it is busy or fails.

What it answers in the end stands in the output, whatever its status. Where nobody answers, or not to this key, the
batch ends: what was answered is kept.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp

from serving.batch.asking import Asking, Found, NoReply, Reply, drained, finished
from serving.batch.requests import Answers, Asked
from serving.batch.run import Answered


@dataclass(frozen=True)
class OverEndpoint:
    """How an endpoint is asked; `url` with or without `/v1`."""

    url: str
    key: str = ""
    concurrency: int = 16
    attempts: int = 8
    timeout_seconds: float = 600.0

    @property
    def root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")

    def __call__(self, todo: list[Asked], answers: Answers) -> Iterator[Answered]:
        """Each answer as soon as it is there. Raises NotReadyError or JobError where no more come."""
        found: Found = queue.SimpleQueue()
        loop = asyncio.new_event_loop()  # in a thread: what interrupts this one must not meet asyncio
        asking = loop.create_task(finished(self._ask_all(todo, answers, found), found))
        threading.Thread(target=_run, args=(loop, asking), daemon=True).start()
        try:
            yield from drained(found)
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(asking.cancel)

    async def _ask_all(self, todo: list[Asked], answers: Answers, found: Found) -> None:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        timeout = aiohttp.ClientTimeout(total=self.timeout_seconds)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:

            async def ask(asked: Asked, body: bytes) -> Reply:
                try:
                    async with session.post(f"{self.root}{asked.url}", data=body) as reply:
                        return Reply(reply.status, reply.headers, await reply.read())
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    raise NoReply(str(error) or type(error).__name__) from None

            await Asking(self.root, ask, answers, found.put, attempts=self.attempts).all(todo, self.concurrency)


def _run(loop: asyncio.AbstractEventLoop, asking: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(asking)
    finally:
        loop.close()
