"""A batch answered by a running endpoint: so many requests at once, asked again where it is busy or fails.

What it answers in the end stands in the output, whatever its status. Where nobody answers, or not to this key, the
batch ends: what was answered is kept.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from cluster.core.errors import JobError, NotReadyError, TrunklineError
from cluster.core.retry_after import retry_after
from serving.batch.requests import Answers, Asked
from serving.batch.run import Answered

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0  # between attempts, where the endpoint does not say
REQUEST_ID = "x-request-id"


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
        found: queue.SimpleQueue[Answered | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()  # in a thread: what interrupts this one must not meet asyncio
        asking = loop.create_task(_Asking(self, answers, found.put).all(todo))
        threading.Thread(target=_finish, args=(loop, asking, found.put), daemon=True).start()
        try:
            while (each := found.get()) is not None:
                if isinstance(each, BaseExceptionGroup):
                    raise next((error for error in each.exceptions if isinstance(error, TrunklineError)), each)
                if isinstance(each, BaseException):
                    raise each
                yield each
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(asking.cancel)


def _finish(loop: asyncio.AbstractEventLoop, asking: asyncio.Task[None], put: Callable[[Any], None]) -> None:
    """Run a task to its end, and tell how that was."""
    try:
        loop.run_until_complete(asking)
        put(None)
    except BaseException as error:  # it is for whoever reads the answers
        put(error)
    finally:
        loop.close()


class _Asking:
    """The requests of one batch, by some tasks that share them."""

    def __init__(self, way: OverEndpoint, answers: Answers, put: Callable[[Answered], None]) -> None:
        self.way, self.answers, self.put = way, answers, put
        self.open_at = 0.0  # no request is sent before, by the loop's clock
        self.answered = 0

    async def all(self, todo: list[Asked]) -> None:
        headers = {"Content-Type": "application/json"}
        if self.way.key:
            headers["Authorization"] = f"Bearer {self.way.key}"
        waiting = iter(todo)

        async def work() -> None:
            for asked in waiting:
                self.put((asked.number, await self._answer(session, asked)))
                self.answered += 1

        timeout = aiohttp.ClientTimeout(total=self.way.timeout_seconds)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(min(self.way.concurrency, len(todo))):
                group.create_task(work())

    async def _answer(self, session: aiohttp.ClientSession, asked: Asked) -> bytes:
        """The line of a request's answer, after as many attempts as it takes."""
        body = msgspec.json.encode(asked.body)
        before, clock = self.answered, asyncio.get_running_loop().time
        for attempt in range(1, self.way.attempts + 1):
            while (seconds := self.open_at - clock()) > 0:
                await asyncio.sleep(seconds)
            last = attempt == self.way.attempts
            try:
                async with session.post(f"{self.way.root}{asked.url}", data=body) as reply:
                    data, status, told = await reply.read(), reply.status, reply.headers
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                why = str(error) or type(error).__name__
                if last and self.answered > before:  # others were answered meanwhile: it is this request
                    return self.answers.unanswered(asked, f"{why}, {attempt} times")
                if last:
                    raise NotReadyError(
                        f"{self.way.root} does not answer ({why})", "What it answered is kept: run the same again."
                    ) from None
                await self._wait(asked, attempt)
                continue
            if status in (401, 403):
                raise JobError(
                    f"{self.way.root} refuses the key ({status}: {_message(data)})",
                    "Set OPENAI_API_KEY, or give --key-file; what was answered is kept.",
                )
            busy = (status == 429 and told.get("x-should-retry") != "false") or status >= 500
            if not busy or last:
                return self.answers.answered(asked, status, told.get(REQUEST_ID, ""), _body(data))
            if pause := retry_after(told):
                self.open_at = max(self.open_at, clock() + pause)  # it is busy for everybody
            else:
                await self._wait(asked, attempt)
        raise AssertionError("unreachable")

    async def _wait(self, asked: Asked, attempt: int) -> None:
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        jitter = random.Random(f"{self.answers.id(asked.number)}/{attempt}").uniform(0.5, 1.0)
        await asyncio.sleep(jitter * longest)


def _body(data: bytes) -> Any:
    """An answer's body: JSON, or a text where a proxy sent one."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode(errors="replace")


def _message(data: bytes) -> str:
    body = _body(data)
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message")) if isinstance(error, dict) else str(body)[:200]
