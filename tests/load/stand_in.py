"""An endpoint's shape without a model: what it answers is what a test says, when a test lets it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class StandIn:
    """`bodies` are those that came. `refused`: statuses for the first requests. A request waits until `together` are
    open at once. `vllm`: whether it tells a version and tokens."""

    def __init__(self, artifact: str = "", together: int = 1, vllm: bool = True) -> None:
        self.artifact, self.together, self.vllm = artifact, together, vllm
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.refused: list[int] = []
        self.ends: list[str] = []  # how the first streams end: `cut`, `error`
        self.open = self.most_open = 0
        self.enough: asyncio.Event | None = None
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/completions", self.answer, methods=["POST"]),
            Route("/v1/chat/completions", self.answer, methods=["POST"]),
        ]
        if vllm:
            routes += [Route("/version", self.version), Route("/tokenize", self.tokenize, methods=["POST"])]
        self.app = Starlette(routes=routes)

    def _headers(self) -> dict[str, str]:
        return {"trunkline-artifact": self.artifact} if self.artifact else {}

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "small"}]}, headers=self._headers())

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": "0.0"})

    async def tokenize(self, request: Request) -> Response:
        words = (await request.json())["prompt"].split()
        return JSONResponse({"tokens": [100 + number // 2 for number in range(2 * len(words))]})

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.keys.add(request.headers.get("authorization", ""))
        self.enough = self.enough or asyncio.Event()
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        if self.open >= self.together:
            self.enough.set()
        await self.enough.wait()
        self.open -= 1
        if self.refused:
            status = self.refused.pop()
            return JSONResponse({"error": {"message": f"no, {status}"}}, status, self._headers())
        prompt = body.get("prompt") or body["messages"][0]["content"]
        usage = {
            "prompt_tokens": len(prompt) if isinstance(prompt, list) else len(prompt.split()),
            "completion_tokens": body["max_tokens"],
        }
        chats = "messages" in body
        if not body["stream"]:
            return JSONResponse({"choices": [{"index": 0, "text": "x"}], "usage": usage}, headers=self._headers())
        pieces = self._pieces(chats, body["max_tokens"], usage, self.ends.pop() if self.ends else "")
        return StreamingResponse(pieces, media_type="text/event-stream", headers=self._headers())

    async def _pieces(self, chats: bool, count: int, usage: dict[str, int], end: str) -> AsyncIterator[str]:
        if chats:
            yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for _ in range(count):
            piece = {"delta": {"content": "x"}} if chats else {"text": "x"}
            yield _event({"choices": [{"index": 0, **piece}]})
        if end == "cut":
            return
        if end == "error":
            yield _event({"error": {"message": "the engine died"}})
        yield ": a comment\n\n"
        yield _event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"


def _event(data: Any) -> str:
    return f"data: {json.dumps(data)}\n\n"
