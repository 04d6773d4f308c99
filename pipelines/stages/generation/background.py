"""Work in a thread of its own: what another one asks the result of later, and coroutines.

Coroutines are for a thread that signals and lost leases interrupt: what these raise must not meet asyncio, which
swallows it in a callback and groups it in a task.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.5  # a thread that is not the main one is interrupted only while it runs Python


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that runs in a thread of its own. Where this thread is interrupted, it is cancelled and
    has ended before the interruption goes on."""
    begun: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = SimpleQueue()

    async def known() -> T:
        task = asyncio.current_task()
        assert task is not None
        begun.put((asyncio.get_running_loop(), task))
        return await work

    with ThreadPoolExecutor(1, thread_name_prefix="asking") as pool:
        future = pool.submit(lambda: asyncio.run(known()))
        try:
            while not wait([future], LOOK_SECONDS).done:
                pass
        except BaseException:
            loop, task = begun.get()
            with suppress(RuntimeError):  # the loop is closed: it ended by itself
                loop.call_soon_threadsafe(task.cancel)
            raise
    return future.result()


def begin(work: Callable[[], T]) -> Future[T]:
    """Have something done; a process that ends does not wait for it."""
    done: Future[T] = Future()

    def answer() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # it is for whoever asks for the result
            done.set_exception(error)

    threading.Thread(target=answer, daemon=True).start()
    return done
