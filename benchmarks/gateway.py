"""What keys, quotas and the request log cost a request: a small application behind the gateway, with and without.

    python benchmarks/gateway.py [--postgres postgresql://USER@HOST/NAME] [--rounds 7] [--requests 400]

Each variant is a server process of its own (uvicorn, one replica); a client keeps connections open and asks one at a
time, then sixteen at a time. Variants take turns, `--rounds` times, since machines drift. Told are of one at a time the
median latency, and that which a tenth is below; of sixteen at a time the whole time by the number of requests; and of
both the server's CPU time by that number: other work on the machine slows the second and the last of these less. Behind
each is what it is more than without keys in the same round: the median over the rounds, and the largest. Key, quotas of
every kind, a budget, the meter and the log are on. The application answers at once, so that nothing hides the cost;
streams have 64 events. Last, the same in one process without sockets, where other work on the machine takes part least.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import msgspec
import psutil
import uvicorn

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec
from serving.gateway import gateway
from serving.keys.administration import Administration, Wanted
from serving.keys.key import NANO, QUOTAS

EVENTS = 64
KINDS = ("one at a time, median", "one at a time, tenth percentile", "sixteen at a time, each", "CPU time")
CONTEXT_TOKENS = 4096
PLENTY = 1 << 40
PROMPT = "Once upon a time there was a little girl who liked to play outside in the park. " * 8


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers a completion at once, whole or streamed, with its usage as vLLM tells it."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    asked = msgspec.json.decode(body)
    usage = {"prompt_tokens": 160, "total_tokens": 160 + EVENTS, "completion_tokens": EVENTS}
    if not asked.get("stream"):
        answer = msgspec.json.encode({"choices": [{"index": 0, "text": "word " * EVENTS}], "usage": usage})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": answer})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    told = bool((asked.get("stream_options") or {}).get("continuous_usage_stats"))
    for number in range(EVENTS):
        chunk: dict[str, Any] = {"id": "cmpl-0", "choices": [{"index": 0, "text": "word "}]}
        if told:
            chunk["usage"] = usage | {"completion_tokens": number + 1}
        await send(
            {"type": "http.response.body", "body": b"data: %b\n\n" % msgspec.json.encode(chunk), "more_body": True}
        )
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def serve(listener: socket.socket, access: Access) -> None:
    async def work() -> None:
        app: Any = await gateway(
            application, "chat", "model/none", EndpointSpec(model="m", access=access), CONTEXT_TOKENS
        )
        await uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off")).serve([listener])

    asyncio.run(work())


async def measure(url: str, key: str, server: psutil.Process, requests: int, streamed: bool) -> tuple[float, ...]:
    """Milliseconds: of one request at a time the median and the tenth percentile, of sixteen at a time all of them by
    their number, and the server's own of both."""
    asked = {"model": "chat", "prompt": PROMPT, "max_tokens": EVENTS, "stream": streamed}
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:

        async def ask() -> float:
            start = time.perf_counter()
            reply = await client.post("/v1/completions", json=asked)
            assert reply.status_code == 200, reply.text
            return time.perf_counter() - start

        for _ in range(20):
            await ask()
        busy = sum(server.cpu_times()[:2])
        alone = sorted([await ask() for _ in range(requests)])
        waiting = iter(range(requests))

        async def work() -> None:
            for _ in waiting:
                await ask()

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(16)))
        together = time.perf_counter() - start
        busy = sum(server.cpu_times()[:2]) - busy
        seconds = (statistics.median(alone), alone[requests // 10], together / requests, busy / (2 * requests))
        return tuple(1000 * found for found in seconds)


async def within(access: Access, key: str, requests: int, streamed: bool) -> tuple[float, float]:
    """Milliseconds of a request without sockets: the median, and the tenth percentile."""
    app: Any = await gateway(application, "chat", "model/none", EndpointSpec(model="m", access=access), CONTEXT_TOKENS)
    body = msgspec.json.encode({"model": "chat", "prompt": PROMPT, "max_tokens": EVENTS, "stream": streamed})
    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    statuses = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    seconds = []
    for _ in range(requests):
        start = time.perf_counter()
        await app(scope, receive, send)
        seconds.append(time.perf_counter() - start)
    assert set(statuses) == {200}
    if app.guard:
        await app.guard.close()
    return 1000 * statistics.median(seconds), 1000 * sorted(seconds)[requests // 10]


def await_answers(url: str) -> None:
    """Return when a server takes requests: before, connections wait in its socket's queue or are refused."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/v1/nothing", timeout=60)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(url)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", default="", help="an empty database; its password in PGPASSWORD")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=400)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        places = {"SQLite": f"{folder}/keys.sqlite"} | ({"PostgreSQL": given.postgres} if given.postgres else {})
        variants: dict[str, tuple[Access, str]] = {"without": (Access(), "none")}
        for name, place in places.items():
            wanted = Wanted(
                f"bench {time.time()}", quotas=dict.fromkeys(QUOTAS, PLENTY), budget_nano=PLENTY * NANO // 1000
            )
            access = Access(keys=True, database=place, input_price=0.5, output_price=1.5)
            variants[name] = (access, Administration(place).create(wanted)[1])
        processes, servers, urls = [], {}, {}
        for name, (access, _) in variants.items():
            listener = socket.socket(proto=socket.IPPROTO_TCP)  # for which asyncio sets TCP_NODELAY, as of a port
            listener.bind(("127.0.0.1", 0))
            urls[name] = f"http://127.0.0.1:{listener.getsockname()[1]}"
            processes.append(multiprocessing.Process(target=serve, args=(listener, access), daemon=True))
            processes[-1].start()
            servers[name] = psutil.Process(processes[-1].pid)
        for url in urls.values():
            await_answers(url)
        for streamed in (False, True):
            rounds: list[dict[str, tuple[float, ...]]] = []
            for _ in range(given.rounds):
                rounds.append(
                    {
                        name: asyncio.run(measure(urls[name], key, servers[name], given.requests, streamed))
                        for name, (_, key) in variants.items()
                    }
                )
            report(rounds, streamed)
        for process in processes:
            process.terminate()
            process.join()
        for streamed in (False, True):
            found = {
                name: [asyncio.run(within(access, key, given.requests, streamed)) for _ in range(given.rounds)]
                for name, (access, key) in variants.items()
            }
            for name, pairs in found.items():
                median, tenth = (statistics.median(values) for values in zip(*pairs, strict=True))
                kind = f"stream of {EVENTS} events" if streamed else "whole answer"
                print(f"{kind}, in process: {name} {median:.3f} ms, tenth percentile {tenth:.3f} ms", flush=True)


def report(rounds: list[dict[str, tuple[float, ...]]], streamed: bool) -> None:
    for number, clients in enumerate(KINDS):
        for name in rounds[0]:
            own = statistics.median(found[name][number] for found in rounds)
            costs = [found[name][number] - found["without"][number] for found in rounds]
            kind = f"stream of {EVENTS} events" if streamed else "whole answer"
            told = f"{kind}, {clients}: {name} {own:.3f} ms"
            if name != "without":
                told += f", {statistics.median(costs):+.3f} ms (at most {max(costs):+.3f})"
            print(told, flush=True)


if __name__ == "__main__":
    main()
