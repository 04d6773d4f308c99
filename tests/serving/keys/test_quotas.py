"""Quotas as clients meet them: windows, bursts from several replicas, streams, budgets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from serving.keys import webhook
from serving.keys.administration import Administration
from serving.keys.ledger import month_of, next_month
from tests.conftest import ROOT
from tests.serving.keys.burst import burst
from tests.serving.keys.small_app import Small, asking, behind, make_key

NOON = 1_800_014_430.0  # 2027-01-15, in the middle of a minute
TEXT = {"model": "chat", "prompt": "a b c", "max_tokens": 10, "words": 5}


class Clock:
    """The time, which a test moves."""

    def __init__(self) -> None:
        self.now = NOON


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.now)
    return clock


def refusal(reply: httpx.Response, kind: str) -> dict[str, Any]:
    """The error of a 429 in OpenAI's shape."""
    error: dict[str, Any] = reply.json()["error"]
    code = kind if kind == "insufficient_quota" else "rate_limit_exceeded"
    assert (reply.status_code, error["type"], error["code"], error["param"]) == (429, kind, code, None)
    return error


def used(database: str) -> tuple[int, ...]:
    """Requests, tokens of prompts, tokens of answers."""
    rows = Administration(database).usage(1)
    return tuple(sum(row[name] for row in rows) for name in ("requests", "prompt_tokens", "completion_tokens"))


@pytest.mark.heavy
def test_rates_are_those_of_a_minute_and_a_day(database: str, clock: Clock) -> None:
    _, key = make_key(database, quotas={"requests_per_minute": 2, "requests_per_day": 5})

    async def work() -> None:
        async with asking(await behind(Small(), database), key) as client:

            async def statuses(count: int) -> list[int]:
                return [(await client.post("/v1/completions", json=TEXT)).status_code for _ in range(count)]

            assert await statuses(3) == [200, 200, 429]
            reply = await client.post("/v1/completions", json=TEXT)
            assert "requests per minute: limit 2, used 2" in refusal(reply, "requests")["message"]
            assert reply.headers["retry-after"] == "30"  # seconds are left of this minute
            clock.now += 30
            assert await statuses(3) == [200, 200, 429]
            clock.now += 60
            assert await statuses(2) == [200, 429]
            reply = await client.post("/v1/completions", json=TEXT)
            assert "requests per day: limit 5" in refusal(reply, "requests")["message"]
            clock.now += int(reply.headers["retry-after"])
            assert await statuses(1) == [200]

    asyncio.run(work())


def test_what_is_not_used_is_given_back(database: str, clock: Clock) -> None:
    """Each may take 13 tokens and takes 8: at once seven fit into 100, one after the other eleven."""
    _, key = make_key(database, quotas={"tokens_per_day": 100})

    async def work() -> None:
        async with asking(await behind(Small(), database), key) as client:
            asked = TEXT | {"prompt": [1, 2, 3]}
            found = [await client.post("/v1/completions", json=asked) for _ in range(13)]
            assert [reply.status_code for reply in found] == [200] * 11 + [429] * 2
            assert "limit 100, used 88, asked for 13" in refusal(found[-1], "tokens")["message"]

    asyncio.run(work())
    _, other = make_key(database, "other", quotas={"tokens_per_day": 100})
    statuses = asyncio.run(burst(database, other, 40))
    assert 7 <= statuses[200] <= 11 and statuses[200] + statuses[429] == 40


@pytest.mark.heavy
@pytest.mark.parametrize(
    "quota", [{"requests_per_day": 20}, pytest.param({"tokens_per_minute": 300}, marks=pytest.mark.exhaustive)]
)
def test_no_burst_of_several_replicas_overruns_a_quota(database: str, quota: dict[str, int], clock: Clock) -> None:
    """Replicas are gateways of their own: three processes, and in one of them four threads."""
    _, key = make_key(database, quotas=quota)
    command = [sys.executable, "-m", "tests.serving.keys.burst", database, key, str(NOON), "25"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout and process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        with ThreadPoolExecutor(4) as pool:
            mine = [pool.submit(lambda: asyncio.run(burst(database, key, 15))) for _ in range(4)]
            found = sum((task.result(timeout=120) for task in mine), Counter[int]())
        for process in processes:
            answered, refused, asked = map(int, process.communicate(timeout=120)[0].split())
            assert asked == 25
            found += Counter({200: answered, 429: refused})
    finally:
        for process in processes:
            process.kill()
    assert found[200] + found[429] == 110
    if "requests_per_day" in quota:
        assert found[200] == 20
    else:  # each takes 8 of the 13 that it reserved
        assert 300 // 13 <= found[200] <= 300 // 8
    assert used(database) == (found[200], 3 * found[200], 5 * found[200])


def test_a_prompt_is_counted_where_its_length_in_bytes_would_not_fit(database: str, clock: Clock) -> None:
    _, key = make_key(database, quotas={"tokens_per_minute": 60})
    words = {**TEXT, "prompt": " ".join(["word"] * 20)}
    chat = {"model": "chat", "messages": [{"role": "user", "content": "Straße " * 10}], "max_tokens": 2}

    async def work() -> None:
        async with asking(await behind(Small(), database), key) as client:
            assert (await client.post("/v1/completions", json=words)).status_code == 200
            for _ in range(2):
                assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
            assert await asyncio.to_thread(used, database) == (3, 40, 9)
            reply = await client.post("/v1/chat/completions", json=chat)
            assert reply.status_code == 429 and reply.headers["retry-after"] == "30"
            never = await client.post("/v1/completions", json=TEXT | {"max_tokens": 999})
            assert "a smaller max_tokens" in refusal(never, "tokens")["message"]
            assert "retry-after" not in never.headers and never.headers["x-should-retry"] == "false"
            whole = await client.post("/v1/chat/completions", json={"model": "chat", "messages": []})
            assert "asked for 1" in refusal(whole, "tokens")["message"]  # as long as the model's context

    asyncio.run(work())


@pytest.mark.parametrize(
    ("asked", "status", "tokens"),
    [
        ({}, 200, (1, 3, 5)),
        ({"stream": True}, 200, (1, 3, 5)),
        ({"stream": True, "stream_options": {"include_usage": True}}, 200, (1, 3, 5)),
        ({"fail": 400}, 400, (1, 0, 0)),
        ({"fail": 503}, 503, (1, 0, 0)),
        ({"crash": True}, 500, (1, 0, 0)),
        ({"n": 99}, 400, (0, 0, 0)),
    ],
)
def test_what_is_settled_is_what_was_used(
    database: str, asked: dict[str, Any], status: int, tokens: tuple[int, ...], clock: Clock
) -> None:
    key_id, key = make_key(database)

    async def work() -> None:
        async with asking(await behind(Small(), database), key) as client:
            assert (await client.post("/v1/completions", json=TEXT | asked)).status_code == status

    asyncio.run(work())
    assert used(database) == tokens
    (entry,) = Administration(database).requests(9, key_id)
    assert (entry["status"], entry["prompt_tokens"], entry["completion_tokens"]) == (status, *tokens[1:])


def test_a_stream_tells_its_client_what_it_asked_for(tmp_path: Path) -> None:
    """And to nobody else that the gateway has the usage told with each event."""
    database = str(tmp_path / "keys.sqlite")
    _, key = make_key(database)

    def usages(text: str) -> list[tuple[bool, Any]]:
        events = [json.loads(event[6:]) for event in text.split("\n\n") if event.startswith("data: {")]
        return [(bool(event["choices"]), event.get("usage")) for event in events]

    async def work() -> None:
        small = Small()
        async with asking(await behind(small, database), key) as client:

            async def stream(**changes: Any) -> str:
                return (await client.post("/v1/completions", json=TEXT | {"stream": True} | changes)).text

            last = {"prompt_tokens": 3, "total_tokens": 8, "completion_tokens": 5}
            plain = await stream()
            assert usages(plain) == [(True, None)] * 5 and plain.endswith("data: [DONE]\n\n")
            asked = await stream(stream_options={"include_usage": True})
            assert usages(asked) == [(True, None)] * 5 + [(False, last)]
            every = await stream(stream_options={"include_usage": True, "continuous_usage_stats": True})
            assert all(usage for _, usage in usages(every)) and len(usages(every)) == 6
            text = "".join(json.loads(event[6:])["choices"][0]["text"] for event in plain.split("\n\n")[:5])
            assert text == "onetwothreefourfive"
            body = {"model": "chat", "input": "x", "stream": True}
            events = (await client.post("/v1/responses", json=body)).text
            assert 'a \\"usage\\":{ in a text' in events and '"output_tokens":4' in events

    asyncio.run(work())


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """The application behind a real socket."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
            await app.guard.close()


def test_of_a_stream_whose_client_leaves_what_came_is_paid(database: str) -> None:
    key_id, key = make_key(database, quotas={"tokens_per_day": 20})

    async def work() -> None:
        small = Small()
        small.go.clear()
        app = await behind(small, database)
        async with listening(app) as url, httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
            asked = TEXT | {"prompt": [1, 2, 3], "stream": True, "words": 9}
            async with client.stream("POST", f"{url}/v1/completions", json=asked) as reply:
                text = ""
                async for piece in reply.aiter_text():
                    text += piece
                    if text.count("data: ") == 3:
                        break
            await asyncio.wait_for(small.left.wait(), 60)
            while app.guard._tasks:  # type: ignore[attr-defined]
                await asyncio.sleep(0)

    asyncio.run(work())
    (entry,) = Administration(database).requests(9, key_id)
    assert (entry["status"], entry["completion_tokens"]) == (499, 3)
    assert used(database)[2] == 3


class Listener:
    """Takes webhooks, and keeps them; of the first `refusals` it says that it cannot."""

    def __init__(self, refusals: int = 0) -> None:
        self.told: list[dict[str, Any]] = []
        self.tries = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.tries += 1
                self.send_response(500 if outer.tries <= refusals else 200)
                self.end_headers()
                if outer.tries > refusals:
                    outer.told.append(json.loads(body))

            def log_message(self, *said: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> Listener:
        self.thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_a_budget_is_told_once_and_then_holds(database: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer costs 3 x 1 + 5 x 2 millionths, and may cost 3 + 10 x 2: of 100, the sixth is over 60 %."""
    monkeypatch.setattr(webhook, "FIRST_PAUSE_SECONDS", 0.01)
    key_id, key = make_key(database, "alice", budget_nano=100_000)
    asked = TEXT | {"prompt": [1, 2, 3]}

    async def work(url: str) -> None:
        monkeypatch.setenv("HOOK", url)
        access = {"input_price": 1.0, "output_price": 2.0, "soft_budget_fraction": 0.6, "webhook": "$HOOK"}
        async with asking(await behind(Small(), database, **access), key) as client:
            found = [await client.post("/v1/completions", json=asked) for _ in range(7)]
            assert [reply.status_code for reply in found] == [200] * 6 + [429]
            assert "budget" in refusal(found[-1], "insufficient_quota")["message"]
            assert int(found[-1].headers["retry-after"]) == next_month(NOON) - NOON
            clock.now = next_month(NOON) + 1.0
            assert (await client.post("/v1/completions", json=asked)).status_code == 200

    with Listener(refusals=2) as listener:
        asyncio.run(work(listener.url))
    (told,) = listener.told
    assert (told["key"], told["name"], told["endpoint"], told["month"]) == (key_id, "alice", "chat", "2027-01")
    assert (told["spent"], told["budget"]) == (65e-6, 100e-6)
    assert key not in json.dumps(told)
    (entry,) = Administration(database).requests(1, key_id)
    assert entry["cost_nano"] == 13_000


def test_months_end_where_they_do() -> None:
    assert (month_of(NOON), next_month(NOON)) == (1_798_761_600, 1_801_440_000)  # January and February 2027
    assert next_month(1_796_083_200.0) == 1_798_761_600  # December 2026
