"""ASGI applications behind real sockets, in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Its address, while it answers there."""
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(60)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)


@contextmanager
def running_made(make: Callable[[], Awaitable[Any]], end: Callable[[Any], Awaitable[None]]) -> Iterator[str]:
    """The same of one that is made in the loop that it answers in, and ended there."""
    found: list[tuple[uvicorn.Server, str]] = []
    failed: list[BaseException] = []
    ready = threading.Event()

    async def serve() -> None:
        app = await make()
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        found.append((server, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"))
        ready.set()
        await task
        await end(app)

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(240)
    try:
        assert not failed, failed
        yield found[0][1]
    finally:
        if found:
            found[0][0].should_exit = True
        thread.join(60)
    assert not failed, failed
