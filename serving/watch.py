"""Whether an engine still computes: it is asked for a token, and its replica ends where none comes.

While tokens flow nothing is asked, so that this costs nothing under load. An engine that is busy with a long prompt
gives no token for a while, but answers between two steps; one that is frozen does neither. What it had begun ends with
an error (serving/answers.py), and its process at once: Serve starts another replica for it.
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
    """Looks at an engine as long as its replica lives. `token` asks it for one, `turn` for a word between two steps."""

    def __init__(self, health: Health, answers: Answers, token: Ask, turn: Ask) -> None:
        self.health, self.answers, self.token, self.turn = health, answers, token, turn
        self._without = 0
        self._ending: asyncio.Task[NoReturn] | None = None
        self._watching = asyncio.create_task(self._run())

    def moved(self) -> None:
        """A token has come, for whomever."""
        self.answers.moved_at = time.monotonic()

    def end(self, why: str) -> None:
        """End this process, its answers first."""
        self._ending = self._ending or asyncio.create_task(self._end(why))

    async def _run(self) -> None:
        while True:
            quiet = time.monotonic() - self.answers.moved_at
            await asyncio.sleep(max(self.health.period_seconds - quiet, self.health.period_seconds / 10))
            if time.monotonic() - self.answers.moved_at < self.health.period_seconds:
                continue
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
        try:
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
