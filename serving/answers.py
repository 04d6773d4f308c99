"""The answers that a replica has begun: what came of them last, and their end where the engine has none for them.

An engine that is frozen or dead leaves its streams open for ever. Where no other replica goes on with them
(serving/handover.py) they end here with an event that says so, and what has not begun with 503: clients know at once
that they may ask again.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextvars import ContextVar

from starlette.responses import JSONResponse

from serving.admission import GENERATED
from serving.asgi import Application, Message, Receive, Scope, Send

RETRY_SECONDS = 5
FLUSH_SECONDS = 0.5  # until the last events of an ended replica have left its process
END_SECONDS = 3.0

_current: ContextVar[BegunAnswer | None] = ContextVar("answer", default=None)


def current_answer() -> BegunAnswer | None:
    """The answer for which something is done, in the tasks of the application, too."""
    return _current.get()


class Answers:
    """An ASGI application around another, whose answers can be ended from without."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.moved_at = time.monotonic()  # when a piece of any answer came
        self.ended = ""  # why there are no answers any more
        self._begun: set[BegunAnswer] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self.app(scope, receive, send)
            return
        if self.ended:
            await _unavailable(self.ended)(scope, receive, send)
            return
        answer = BegunAnswer(self, scope, send, task)
        self._begun.add(answer)
        token = _current.set(answer)
        try:
            await self.app(scope, receive, answer.send)
        except asyncio.CancelledError:
            if not answer.failed or answer.finished:
                raise
            task.uncancel()
            await answer.fail(receive)
        finally:
            _current.reset(token)
            self._begun.discard(answer)

    def begin_no_more(self, why: str) -> None:
        """Refuse what comes from now on with 503 and `why`."""
        self.ended = why

    async def end(self, why: str) -> None:
        """End what has begun, with `why` told to its clients, and begin nothing more."""
        self.begin_no_more(why)
        begun = list(self._begun)
        for answer in begun:
            answer.end(why)
        if begun:
            await asyncio.wait([answer.task for answer in begun], timeout=END_SECONDS)
        await asyncio.sleep(FLUSH_SECONDS)


class BegunAnswer:
    """One answer on its way, in a task."""

    def __init__(self, answers: Answers, scope: Scope, send: Send, task: asyncio.Task[None]) -> None:
        self.answers, self.scope, self._send, self.task = answers, scope, send, task
        self.started, self.streamed, self.finished = False, False, False
        self.failed = ""  # why there is no more of it

    def end(self, why: str) -> None:
        """End it, with `why` told to its client."""
        if not self.failed:
            self.failed = why
            self.task.cancel()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.streamed = any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message.get("headers", ())
            )
        else:
            self.finished = not message.get("more_body")
            if self.streamed:
                self.answers.moved_at = time.monotonic()
        await self._send(message)

    async def fail(self, receive: Receive) -> None:
        """Tell the client that there is no more."""
        why = self.failed
        if not self.started:
            await _unavailable(why)(self.scope, receive, self._send)
        else:
            body = _event(why, str(self.scope["path"])) if self.streamed else b""
            await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _event(why: str, path: str) -> bytes:
    """The last event of a stream, as clients of its API know it."""
    error = {"message": why, "type": "server_error", "param": None, "code": "engine_lost"}
    if path.endswith(GENERATED[2]):
        told = {"type": "error", "code": error["code"], "message": why, "param": None}
        return b"event: error\ndata: " + json.dumps(told).encode() + b"\n\n"
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\ndata: [DONE]\n\n"


def _unavailable(why: str) -> JSONResponse:
    error = {"message": why, "type": "server_error", "param": None, "code": "engine_lost"}
    return JSONResponse({"error": error}, 503, {"Retry-After": str(RETRY_SECONDS)})
