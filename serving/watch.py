"""Whether an engine still computes: it is asked for a token, and its replica ends where none comes.

While tokens flow nothing is asked, so that this costs nothing under load. An engine that is busy with a long prompt
gives no token for a while, but answers between two steps; one that is frozen does neither. What it had begun goes on
at another replica (serving/handover.py) or ends with an error (serving/answers.py); then its process ends, and Serve
starts another replica for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

from cluster.core.specs.endpoint import Health
from serving.answers import Answers

LOST = "the engine of this replica does not answer any more, and is replaced: ask again"
PATIENCE = 10  # times that an engine may answer without giving a token to anybody
LOGGER = logging.getLogger("ray.serve")

Ask = Callable[[], Awaitable[object]]


class Watch:
    """Looks at an engine as long as its replica lives. `token` asks it for one, `turn` for a word between two steps.

    `hand_over` has others finish what the engine has begun, as far as they can.
    """

    def __init__(self, health: Health, answers: Answers, token: Ask, turn: Ask, hand_over: Ask | None = None) -> None:
        self.health, self.answers, self.token, self.turn, self.hand_over = health, answers, token, turn, hand_over
        self._without = 0
        self._ending: asyncio.Task[NoReturn] | None = None
        self._watching = asyncio.create_task(self._run())

    def moved(self) -> None:
        """A token has come, for whomever."""
        self.answers.moved_at = time.monotonic()

    @property
    def ending(self) -> bool:
        """Whether the engine is lost and its replica ends."""
        return self._ending is not None

    def end(self, why: str) -> None:
        """End this process, its answers first."""
        self._ending = self._ending or asyncio.create_task(self._end(why))

    async def _run(self) -> None:
        while True:
            quiet = time.monotonic() - self.answers.moved_at
            await asyncio.sleep(max(self.health.period_seconds - quiet, self.health.period_seconds / 10))
            if time.monotonic() - self.answers.moved_at < self.health.period_seconds:
                continue
            if self.ending:
                return
            if why := await self._lost():
                self.end(why)
                return

    async def _lost(self) -> str:
        """Ask for a token; why the engine is taken for lost, empty where it is not."""
        asked_at, deadline = time.monotonic(), self.health.timeout_seconds
        token, turn = (asyncio.ensure_future(ask()) for ask in (self.token, self.turn))
        try:
            await asyncio.wait([token], timeout=deadline)
            if token.done():
                token.result()
                self._without = 0
                self.moved()
                return ""
            if self.answers.moved_at > asked_at:
                self._without = 0
                return ""
            if not turn.done():
                return f"no token within {deadline:g} s"
            turn.result()
            self._without += 1
            return f"no token in {PATIENCE} times {deadline:g} s" if self._without >= PATIENCE else ""
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            for asked in (token, turn):
                asked.cancel()

    async def _end(self, why: str) -> NoReturn:
        LOGGER.error("the engine is lost (%s): this replica ends", why)
        self.answers.begin_no_more(LOST)
        try:
            if self.hand_over is not None:
                await self.hand_over()
            await self.answers.end(LOST)
        finally:
            end_process()


def end_process() -> NoReturn:
    """End this process and those that it has started, of which a frozen one would hear nothing else."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)
