"""A small application of the API's shape behind the gateway: its answers are as long as they are asked to be, a word is
a token, and it tells their usage as vLLM does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec
from serving.asgi import Application
from serving.gateway import gateway
from serving.keys.administration import Administration, Wanted

CONTEXT = 1000
REF = "model/tiny-0123456789ab"
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


class Small:
    """The application. `seen`: the headers and bodies that came; a stream waits behind its third word for `go`, and
    what says `wait` before its first."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], Any]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.left = asyncio.Event()
        routes = [("/v1/chat/completions", self.answer), ("/v1/completions", self.answer), ("/health", self.health)]
        handlers: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [*routes, ("/v1/models", self.health)]
        handlers += [("/tokenize", self.tokenize), ("/v1/responses", self.responses)]
        self.app = Starlette(routes=[Route(path, handler, methods=["GET", "POST"]) for path, handler in handlers])

    async def health(self, request: Request) -> Response:
        self.seen.append((dict(request.headers), None))
        return JSONResponse({"object": "list", "data": [{"id": "chat"}]})

    async def tokenize(self, request: Request) -> Response:
        asked = await request.json()
        count = len(_text(asked).split())
        return JSONResponse({"count": count, "tokens": list(range(count))})

    async def answer(self, request: Request) -> Response:
        asked = await request.json()
        self.seen.append((dict(request.headers), asked))
        if asked.get("fail"):
            return JSONResponse({"error": {"message": "no"}}, asked["fail"])
        if asked.get("crash"):
            raise RuntimeError("crashed")
        if asked.get("wait"):
            try:
                await self.go.wait()
            finally:
                self.left.set()
        words = [WORDS[n % len(WORDS)] for n in range(min(asked.get("words", 5), asked.get("max_tokens") or CONTEXT))]
        prompt = len(_text(asked).split())
        if asked.get("stream"):
            return StreamingResponse(self._stream(asked, words, prompt), media_type="text/event-stream")
        return JSONResponse({"choices": [{"index": 0, "text": " ".join(words)}], "usage": _usage(prompt, len(words))})

    async def _stream(self, asked: dict[str, Any], words: list[str], prompt: int) -> AsyncIterator[str]:
        options = asked.get("stream_options") or {}
        try:
            for number, word in enumerate(words, 1):
                if number == 4:
                    await self.go.wait()
                chunk = {"choices": [{"index": 0, "text": word}]}
                if options.get("include_usage") and options.get("continuous_usage_stats"):
                    chunk["usage"] = _usage(prompt, number)  # type: ignore[assignment]
                yield f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"
            if options.get("include_usage"):
                last = {"choices": [], "usage": _usage(prompt, len(words))}
                yield f"data: {json.dumps(last, separators=(',', ':'))}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.left.set()

    async def responses(self, request: Request) -> Response:
        asked = await request.json()
        usage = {"input_tokens": 3, "output_tokens": 4}
        if not asked.get("stream"):
            return JSONResponse({"usage": usage})
        events = [
            {"type": "response.output_text.delta", "delta": 'a "usage":{ in a text'},
            {"type": "response.completed", "response": {"usage": usage}},
        ]
        text = "".join(f"event: {e['type']}\ndata: {json.dumps(e, separators=(',', ':'))}\n\n" for e in events)
        return StreamingResponse(iter([text[:30], text[30:]]), media_type="text/event-stream")


def _text(asked: dict[str, Any]) -> str:
    return str(asked.get("prompt") or " ".join(m["content"] for m in asked.get("messages", ())))


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


async def behind(small: Small, database: str, **access: Any) -> Application:
    """The application behind keys."""
    wanted = Access(**{"keys": True, **access, "database": database})
    return await gateway(small.app, "chat", REF, EndpointSpec(model="m", access=wanted), CONTEXT)


@asynccontextmanager
async def asking(app: Any, key: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application in this process, which ends as a server would end it."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://endpoint", headers=headers) as client:
        yield client
    guard = getattr(app, "guard", None) or getattr(getattr(app, "app", None), "guard", None)
    if guard is not None:
        await guard.close()


def make_key(database: str, name: str = "somebody", **wanted: Any) -> tuple[str, str]:
    """A key: its id, and what its owner sends."""
    key, text = Administration(database).create(Wanted(name, **wanted))
    return key.id, text
