"""A few processes that plug-ins run in, each of one call at a time. One that takes too long is killed and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress

import msgspec

from serving.plugins.worker import Order

PROCESSES = 2  # that calls wait for
MOST_BYTES = 1 << 20  # of an answer


class WorkerDied(Exception):
    """The process ended while it worked."""


class Workers:
    """Started when they are needed."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(PROCESSES)
        self._idle: list[asyncio.subprocess.Process] = []

    async def call(self, order: Order, timeout_seconds: float) -> str:
        """What comes of a call. Raises TimeoutError, its wait included, and WorkerDied."""
        async with asyncio.timeout(timeout_seconds), self._places:
            process = self._idle.pop() if self._idle else await _start()
            try:
                assert process.stdin and process.stdout
                process.stdin.write(msgspec.json.encode(order) + b"\n")
                line = await process.stdout.readline()
                if not line.endswith(b"\n"):
                    raise WorkerDied("the tool ended early")
            except BaseException as error:
                _kill(process)
                if isinstance(error, (ConnectionError, ValueError)):  # a pipe that broke, an answer without an end
                    raise WorkerDied("the tool ended early") from None
                raise
            self._idle.append(process)
        return str(msgspec.json.decode(line))

    async def close(self) -> None:
        for process in self._idle:
            _kill(process)
            await process.wait()
        self._idle.clear()


async def _start() -> asyncio.subprocess.Process:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serving.plugins.worker",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True, env=environment,
        limit=MOST_BYTES,
    )  # fmt: skip


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
