"""The OpenAI API over a model in this process: models, chat and completions, whole or streamed.

For what vLLM cannot serve: some answers at once, token by token in turn, and of the API what a chat needs. A request
for more is refused.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Generator
from typing import Any, TypeVar

from anyio import CancelScope
from fastapi import FastAPI, Request
from fastapi.concurrency import iterate_in_threadpool, run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse

from cluster.core.errors import InputError, TrunklineError
from cluster.core.specs.endpoint import Limits
from cluster.core.storage.artifact import Artifact
from serving.asgi import Application
from serving.in_process import InProcess, Told
from serving.measured import Measured, wants_measuring
from serving.plain_app import plain_app, plain_message, refusal
from serving.pooling.routes import with_pooling
from serving.talk import Messages, Sampling, too_long, until

ANSWERS_AT_ONCE = 8  # each has a cache of its own in memory, and makes the others slower; more requests wait
Piece = TypeVar("Piece")
COMPLETION_TOKENS = 16  # OpenAI's own, where a completion does not say
TAKEN = {"model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "seed", "stream",
         "stream_options", "user", "metadata", "store", "stop", "echo", "logprobs"}  # fmt: skip
AS_IT_IS = {"n": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0,
            "best_of": 1, "parallel_tool_calls": True}  # fmt: skip


def openai_app(name: str, talker: InProcess, at_once: int = ANSWERS_AT_ONCE) -> FastAPI:
    """The application of a model that clients know under a name, which gives some answers at once."""

    def tokens(given: str | Messages) -> list[int]:
        return list(map(int, talker.prompt(given)["input_ids"][0]))

    app = plain_app(name, talker.context_tokens, tokens, lambda ids: str(talker.tokenizer.decode(ids)))
    room = asyncio.Semaphore(at_once)  # who waits takes no thread that an answer needs

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer(request, "chat.completion", "messages")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(request, "text_completion", "prompt")

    async def answer(request: Request, kind: str, given: str) -> Response:
        try:
            asked = json.loads(await request.body())
            if given == "prompt" and isinstance(asked, dict) and wants_measuring(asked):
                return await measured(asked)
            call = await run_in_threadpool(Call.of, asked, kind, given, name, talker)
        except (ValueError, TypeError, TrunklineError) as error:
            return refusal(error)
        if call.streamed:
            return StreamingResponse(closed(call.events(), room), media_type="text/event-stream")
        told = Told()
        try:
            text = "".join([piece async for piece in closed(call.pieces(told), room)])
            return JSONResponse(call.whole(text, told))
        except TrunklineError as error:
            return refusal(error)

    async def measured(asked: dict[str, Any]) -> Response:
        """The answers to several prompts, or with more than their text."""
        _check(asked, name)
        wanted = most_tokens(asked)
        most = COMPLETION_TOKENS if wanted is None else wanted
        if most < (0 if asked.get("echo") else 1):
            raise InputError("max_tokens: at least 1, and 0 with echo")
        call = await run_in_threadpool(Measured, asked, sampling(asked, most), stops(asked.get("stop")), talker)
        found = [each async for each in closed(call.choices(), room)]
        tokens = sum(number for _, number in found)
        identity = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
        total = call.prompt_tokens + tokens
        usage = {"prompt_tokens": call.prompt_tokens, "completion_tokens": tokens, "total_tokens": total}
        return JSONResponse({**identity, "model": name, "choices": [choice for choice, _ in found], "usage": usage})

    return app


class Writing:
    """A model in this process that writes, and its application."""

    def __init__(self, artifact: Artifact) -> None:
        self.talker = InProcess(artifact)

    @property
    def context_tokens(self) -> int:
        return self.talker.context_tokens

    @context_tokens.setter
    def context_tokens(self, wanted: int) -> None:
        self.talker.context_tokens = wanted

    def app(self, name: str, limits: Limits, at_once: int = ANSWERS_AT_ONCE) -> Application:
        """The application of the model under the name that clients know, which gives some answers at once."""
        return with_pooling(openai_app(name, self.talker, at_once), name, None)


async def closed(pieces: Generator[Piece], room: asyncio.Semaphore) -> AsyncIterator[Piece]:
    """The pieces of an answer, as soon as there is room; they end where whoever asked goes: else the model would go
    on."""
    try:
        async with room:
            async for piece in iterate_in_threadpool(pieces):
                yield piece
    finally:
        with CancelScope(shield=True):
            await run_in_threadpool(pieces.close)


class Call:
    """One request: what is asked of the model, and how its answer is told."""

    def __init__(self, kind: str, name: str, talker: InProcess, prompt: str | Messages, sampling: Sampling) -> None:
        self.kind, self.name, self.talker, self.prompt, self.sampling = kind, name, talker, prompt, sampling
        self.streamed, self.with_usage, self.every_usage = False, False, False
        self.stops: tuple[str, ...] = ()
        self.prompt_tokens = talker.count(prompt, 0)
        self.chats = kind == "chat.completion"
        self.identity = {"id": f"{kind}-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}

    @classmethod
    def of(cls, asked: Any, kind: str, given: str, name: str, talker: InProcess) -> Call:
        """Raises InputError for a request that cannot be met."""
        _check(asked, name)
        prompt = asked.get(given)
        if given == "messages":
            prompt = [plain_message(message) for message in prompt] if isinstance(prompt, list) and prompt else None
        if not isinstance(prompt, (str, list)) or (given == "prompt" and not isinstance(prompt, str)):
            raise InputError(f"{given}: missing, or not of its kind", "Give messages, or a text as the prompt.")
        if asked.get("logprobs"):
            raise InputError("logprobs: this endpoint, over transformers, tells them of completions", "Leave it out.")
        call = cls(kind, name, talker, prompt, Sampling())
        wanted = most_tokens(asked)
        room = talker.context_tokens - call.prompt_tokens if talker.context_tokens else wanted or COMPLETION_TOKENS
        if wanted is not None and wanted < 1:
            raise InputError("max_tokens: at least 1")
        if room < (wanted or 1):
            raise too_long(talker.context_tokens)
        call.sampling = sampling(asked, wanted or (room if given == "messages" else COMPLETION_TOKENS))
        call.stops = stops(asked.get("stop"))
        call.streamed = bool(asked.get("stream"))
        options = asked.get("stream_options") or {}
        if not isinstance(options, dict):
            raise InputError("stream_options: not an object", 'Write {"include_usage": true}.')
        call.with_usage = bool(options.get("include_usage"))
        call.every_usage = call.with_usage and bool(options.get("continuous_usage_stats"))  # as vLLM has it
        return call

    def pieces(self, told: Told) -> Generator[str]:
        """The answer's text, as it comes."""
        stopped = yield from until(self.talker.told(self.prompt, self.sampling, told), *self.stops)
        told.finished = told.finished or stopped  # `|=` would look before the answer is told

    def whole(self, text: str, told: Told) -> dict[str, Any]:
        """The answer at once."""
        body = {"message": {"role": "assistant", "content": text}} if self.chats else {"text": text}
        choice = {"index": 0, **body, "finish_reason": _reason(told), "logprobs": None}
        return {**self.identity, "object": self.kind, "choices": [choice], "usage": self._usage(told)}

    def events(self) -> Generator[str]:
        """The answer piece by piece, as server-sent events; an error among them is the last."""
        told = Told()
        try:
            if self.chats:
                yield self._event({"role": "assistant", "content": ""})
            for piece in self.pieces(told):
                yield self._event({"content": piece}, piece, told=told)
            yield self._event({}, reason=_reason(told), told=told)
            if self.with_usage:
                yield _event({**self.identity, "object": self._chunk, "choices": [], "usage": self._usage(told)})
        except TrunklineError as error:
            yield _event({"error": {"message": str(error), "type": "server_error"}})
        yield "data: [DONE]\n\n"

    @property
    def _chunk(self) -> str:
        return f"{self.kind}.chunk" if self.chats else self.kind

    def _event(self, delta: dict[str, str], text: str = "", reason: str | None = None, told: Told | None = None) -> str:
        body = {"delta": delta} if self.chats else {"text": text}
        choice = {"index": 0, **body, "finish_reason": reason, "logprobs": None}
        usage = {"usage": self._usage(told)} if told and self.every_usage else {}
        return _event({**self.identity, "object": self._chunk, "choices": [choice], **usage})

    def _usage(self, told: Told) -> dict[str, int]:
        total = self.prompt_tokens + told.tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": told.tokens, "total_tokens": total}


def _check(asked: Any, name: str) -> None:
    """Raise InputError for what is no request for a model, or has fields that are not known."""
    if not isinstance(asked, dict):
        raise InputError("the request is no JSON object")
    if asked.get("model") != name:
        raise InputError(f"there is no model {asked.get('model')!r} here, only {name!r}")
    for field, value in asked.items():
        if field not in TAKEN and value not in (None, [], {}, AS_IT_IS.get(field)):
            raise InputError(f"{field}: this endpoint, over transformers, does not know it", "Leave it out.")


def most_tokens(asked: dict[str, Any]) -> int | None:
    """The longest answer that is wanted; None where the request does not say."""
    given = [asked[name] for name in ("max_completion_tokens", "max_tokens") if asked.get(name) is not None]
    if given and type(given[0]) is not int:
        raise InputError("max_tokens: no whole number")
    return given[0] if given else None


def sampling(asked: dict[str, Any], max_tokens: int) -> Sampling:
    """How tokens are chosen. Raises InputError, ValueError or TypeError."""
    temperature, seed = asked.get("temperature"), asked.get("seed")
    found = Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if temperature is None else float(temperature),
        seed=secrets.randbits(31) if seed is None else int(seed),
    )
    if not 0 <= found.temperature < math.inf:
        raise InputError("temperature is not negative, and a number")
    if not -(2**63) <= found.seed < 2**63:
        raise InputError("seed: not a number of 64 bits")
    return found


def stops(given: Any) -> tuple[str, ...]:
    """Texts that end an answer. Raises InputError."""
    found = [given] if isinstance(given, str) else given or []
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        raise InputError("stop: a text, or a list of them")
    return tuple(found)


def _reason(told: Told) -> str:
    return "stop" if told.finished else "length"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"  # as the gateway reads usage
