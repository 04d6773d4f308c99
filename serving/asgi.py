"""ASGI as our applications use it: its types, what they all ask of a scope, and a request without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from serving.limits import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ARTIFACT_HEADER = b"trunkline-artifact"  # of an answer: what gave it; `ctl artifacts lineage` takes its value
METRICS_PATH = "/metrics"  # figures of all keys: for operators
FEEDBACK_PATH = "/feedback"  # what comes there is kept with consent, in a place of its own and no other log

# What the gateway tells the applications within, in their scope: who asks (an id, or nothing), and the request's id.
KEY_ID, REQUEST_ID = "trunkline.key_id", "trunkline.request_id"
ON_BEHALF = "trunkline.on_behalf"  # in the scope of what the endpoint asks itself: the id of the key that it is for


def path_of(scope: Scope) -> str:
    """The path below where the application is mounted; empty for the mount itself, without a slash."""
    root, path = scope.get("root_path", "").rstrip("/"), str(scope["path"])
    return path[len(root) :] if root and f"{path}/".startswith(f"{root}/") else path


def error(refused: Refused) -> JSONResponse:
    """An error in OpenAI's shape."""
    body = {"message": refused.message, "type": refused.kind, "param": refused.param, "code": refused.code}
    return JSONResponse({"error": body}, refused.status, refused.headers)


def again(body: bytes, receive: Receive) -> Receive:
    """What the application receives: a body that was read, and then that whoever asked has gone."""
    begun = False

    async def taken() -> Message:
        nonlocal begun
        if begun:
            return await receive()
        begun = True
        return {"type": "http.request", "body": body, "more_body": False}

    return taken


def posted(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Scope:
    """The scope of a POST of JSON that no socket has brought."""
    given = {
        "host": "localhost",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    return post_scope(path, [(name.encode(), value.encode("latin-1")) for name, value in given.items()])


def post_scope(path: str, headers: list[tuple[bytes, bytes]]) -> Scope:
    """The scope of a POST that no socket has brought."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
    }


async def nobody_leaves() -> Message:
    """What is received from a client that stays."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def messages(app: Application, scope: Scope, receive: Receive) -> AsyncGenerator[Message]:
    """What an application sends, as it comes. To be closed: an application that has not ended is cancelled then."""
    sent: asyncio.Queue[Message | None] = asyncio.Queue()

    async def answer() -> None:
        try:
            await app(scope, receive, sent.put)
        finally:
            sent.put_nowait(None)

    task = asyncio.create_task(answer())
    try:
        while (message := await sent.get()) is not None:
            yield message
        await task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def called(
    app: Application, path: str, body: bytes, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """The status and the body of what an application answers to a POST of JSON."""
    status, answer = 0, b""

    async def send(message: Message) -> None:
        nonlocal status, answer
        status = message.get("status", status)
        answer += message.get("body", b"")

    await app(posted(path, body, headers), again(body, nobody_leaves), send)
    return status, answer
