"""The requests of a batch, by some tasks that share them; each is asked again where it finds nobody, or somebody busy.

What is asked is a function: a socket to an endpoint (over_endpoint.py), or the gateway of this process
(over_gateway.py).
"""

from __future__ import annotations

import asyncio
import queue
import random
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec

from cluster.core.errors import JobError, NotReadyError, TrunklineError
from cluster.core.retry_after import retry_after
from serving.batch.requests import Answers, Asked
from serving.batch.run import Answered

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0  # between attempts, where it is not said
REQUEST_ID = "x-request-id"


class NoReply(Exception):
    """Nobody has answered; says why."""


@dataclass(frozen=True)
class Reply:
    """What was answered to a request."""

    status: int
    headers: Mapping[str, str]
    data: bytes


Ask = Callable[[Asked, bytes], Awaitable[Reply]]


class Asking:
    """The requests of one batch. `who` is asked by `ask`; each answer is `put` as soon as it is there."""

    def __init__(
        self,
        who: str,
        ask: Ask,
        answers: Answers,
        put: Callable[[Answered], None],
        *,
        attempts: int,
        refusals: Collection[int] = (401, 403),
        patient: bool = False,
    ) -> None:
        """`refusals`: statuses that end the batch, whose key does not count; `patient`: who is told when to ask again
        does so, however often."""
        self.who, self.ask, self.answers, self.put = who, ask, answers, put
        self.attempts, self.refusals, self.patient = attempts, refusals, patient
        self.open_at = 0.0  # no request is sent before, by the loop's clock
        self.answered = 0

    async def all(self, todo: list[Asked], concurrency: int) -> None:
        """Raises an ExceptionGroup with NotReadyError or JobError where no more answers come."""
        waiting = iter(todo)

        async def work() -> None:
            for asked in waiting:
                self.put((asked.number, await self._answer(asked)))
                self.answered += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(todo))):
                group.create_task(work())

    async def _answer(self, asked: Asked) -> bytes:
        """The line of a request's answer, after as many attempts as it takes."""
        body = msgspec.json.encode(asked.body)
        before, clock = self.answered, asyncio.get_running_loop().time
        failed = 0
        for attempt in count(1):
            while (seconds := self.open_at - clock()) > 0:
                await asyncio.sleep(seconds)
            try:
                reply = await self.ask(asked, body)
            except NoReply as why:
                failed += 1
                if failed >= self.attempts and self.answered > before:  # others were answered meanwhile: it is this one
                    return self.answers.unanswered(asked, f"{why}, {failed} times")
                if failed >= self.attempts:
                    raise NotReadyError(
                        f"{self.who} does not answer ({why})", "What it answered is kept: run the same again."
                    ) from None
                await self._wait(asked, failed)
                continue
            if reply.status in self.refusals:
                raise JobError(
                    f"{self.who} refuses the key ({reply.status}: {_message(reply.data)})",
                    "Set OPENAI_API_KEY, or give --key-file; what was answered is kept.",
                )
            busy = reply.status == 429 and reply.headers.get("x-should-retry") != "false"
            pause = retry_after(reply.headers)
            failed += not (busy and pause and self.patient)
            if not (busy or reply.status >= 500) or failed >= self.attempts:
                return self.answers.answered(asked, reply.status, reply.headers.get(REQUEST_ID, ""), _body(reply.data))
            if pause:
                self.open_at = max(self.open_at, clock() + pause)  # it is busy for everybody
            else:
                await self._wait(asked, attempt)
        raise AssertionError("unreachable")

    async def _wait(self, asked: Asked, attempt: int) -> None:
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        jitter = random.Random(f"{self.answers.id(asked.number)}/{attempt}").uniform(0.5, 1.0)
        await asyncio.sleep(jitter * longest)


Found = queue.SimpleQueue[Answered | BaseException | None]


async def finished(work: Awaitable[None], found: Found) -> None:
    """Do the work to its end, and tell in the queue how that was."""
    try:
        await work
        found.put(None)
    except BaseException as error:  # it is for whoever reads the answers
        found.put(error)


def drained(found: Found) -> Iterator[Answered]:
    """The answers of a queue up to its end. Raises what has ended it, of several errors the one for users."""
    while (each := found.get()) is not None:
        if isinstance(each, BaseExceptionGroup):
            raise next((error for error in each.exceptions if isinstance(error, TrunklineError)), each)
        if isinstance(each, BaseException):
            raise each
        yield each


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
