"""Clients that ask an endpoint again and again over connections that they keep, half of them by streams."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

TIMEOUT_SECONDS = 120.0
TOKENS = 24
NUMBERS = itertools.count()  # else a canary would get all requests, or none


@dataclass(frozen=True)
class Answer:
    """What came of one request. `failed` is empty where all of it came."""

    asked_at: float
    seconds: float
    artifact: str
    tokens: int
    streamed: bool
    failed: str = ""


@dataclass
class Load:
    """Several clients at once, until the block ends; each waits for its answer before it asks again."""

    base_url: str
    clients: int = 8
    tokens: int = TOKENS
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.failed]

    @property
    def artifacts(self) -> Counter[str]:
        return Counter(answer.artifact for answer in self.answers if not answer.failed)

    def wait_for(self, more: int) -> None:
        """Wait until so many more answers have come."""
        wanted = len(self.answers) + more
        while len(self.answers) < wanted:
            time.sleep(0.1)

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask_on(number) for number in range(self.clients)))

    async def _ask_on(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self.base_url, timeout=TIMEOUT_SECONDS) as client:
            while not self._stopped.is_set():
                self.answers.append(await ask(client, self.tokens, streamed=bool(number % 2)))
                if self.answers[-1].failed:
                    await asyncio.sleep(0.2)


async def ask(client: httpx.AsyncClient, tokens: int, *, streamed: bool) -> Answer:
    """One request of a completion of exactly so many tokens."""
    body: dict[str, Any] = {
        "model": "chat",
        "prompt": f"def f{next(NUMBERS)}(",
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    asked_at = time.time()
    artifact, came, failed = "", 0, ""
    try:
        async with client.stream("POST", "/completions", json=body) as reply:
            artifact = reply.headers.get("trunkline-artifact", "")
            if reply.status_code != 200:
                failed = f"{reply.status_code}: {(await reply.aread()).decode()[:200]}"
            elif streamed:
                came, failed = await _streamed(reply, tokens)
            else:
                came = json.loads(await reply.aread())["usage"]["completion_tokens"]
    except (httpx.HTTPError, ValueError) as error:
        failed = repr(error)
    failed = failed or ("" if came == tokens else f"{came} tokens of {tokens}")
    return Answer(asked_at, time.time() - asked_at, artifact, came, streamed, failed)


async def _streamed(reply: httpx.Response, tokens: int) -> tuple[int, str]:
    """The tokens of a stream, and why it is not whole."""
    came, last = 0, ""
    async for line in reply.aiter_lines():
        if not line.startswith("data: "):
            continue
        last = line
        if line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            return came, f"error event: {event['error']['code']}"
        if event.get("usage"):
            came = event["usage"]["completion_tokens"]
    return came, "" if last == "data: [DONE]" else f"ends with {last[:80]!r}"
