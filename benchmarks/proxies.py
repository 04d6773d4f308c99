"""Two endpoints of the same model side by side, one behind HAProxy, one behind Ray Serve's own proxy, asked in turns.

    python benchmarks/proxies.py [--rounds 5]

Each has a cluster of its own, and idles while the other is asked; which begins a round alternates. One client asks
for 8 tokens, again and again (median); sixteen ask for 32, whole and streamed (tokens a second). Told are medians over
rounds, and of each round the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.evaluation.tiny_run import commit_model
from tests.serving.conftest import write_model

KINDS = ("p50 at 1, ms", "tokens/s at 16, whole", "tokens/s at 16, streamed")
PROXIES = ("haproxy", "python")


async def ask(client: httpx.AsyncClient, tokens: int, streamed: bool) -> None:
    body: dict[str, Any] = {"model": "chat", "prompt": "def f(", "max_tokens": tokens, "ignore_eos": True}
    reply = await client.post("/completions", json=body | {"stream": streamed})
    assert reply.status_code == 200 and ("[DONE]" in reply.text or not streamed), reply.text[:300]


async def measure(url: str, requests: int) -> tuple[float, float, float]:
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=16)) as client:
        took = []
        for _ in range(requests // 4):
            began = time.perf_counter()
            await ask(client, 8, False)
            took.append(time.perf_counter() - began)
        rates = []
        for streamed in (False, True):
            room = asyncio.Semaphore(16)

            async def one(room: asyncio.Semaphore = room, streamed: bool = streamed) -> None:
                async with room:
                    await ask(client, 32, streamed)

            began = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(requests)))
            rates.append(32 * requests / (time.perf_counter() - began))
    return statistics.median(took) * 1000, rates[0], rates[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=160)
    options = parser.parse_args()
    clusters: dict[str, LocalCluster] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_model(place / "model")
        store = Store(place / "store")
        model = commit_model(store, place / "model", PretrainSpec(), {})
        try:
            urls = {}
            for proxy in PROXIES:
                (place / proxy).mkdir()
                clusters[proxy] = cluster = LocalCluster(place / proxy, free_port(), free_port())
                cluster.up(num_cpus=2)
                port = free_port()
                where = ("--name", "chat", "--port", str(port), "--store", store.root.url)
                began = time.monotonic()
                cluster.ctl("serve", "up", model.record.ref, *where, timeout=900, TRUNKLINE_PROXY=proxy)
                print(f"{proxy}: ready in {time.monotonic() - began:.0f} s", flush=True)
                urls[proxy] = f"http://127.0.0.1:{port}/v1"
            found: dict[str, list[tuple[float, float, float]]] = {proxy: [] for proxy in PROXIES}
            for proxy in PROXIES:
                asyncio.run(measure(urls[proxy], 32))
            for number in range(options.rounds):
                for proxy in PROXIES if number % 2 else reversed(PROXIES):
                    found[proxy].append(asyncio.run(measure(urls[proxy], options.requests)))
                    told = ", ".join(f"{k} {v:.0f}" for k, v in zip(KINDS, found[proxy][-1], strict=True))
                    print(f"{number} {proxy}: {told}; load {os.getloadavg()[0]:.1f}", flush=True)
        finally:
            for cluster in clusters.values():
                cluster.ctl("down")
    for kind, name in enumerate(KINDS):
        ours, serves = ([row[kind] for row in found[proxy]] for proxy in PROXIES)
        ratios = sorted(a / b for a, b in zip(ours, serves, strict=True))
        print(f"{name}: HAProxy {statistics.median(ours):.0f}, Serve's {statistics.median(serves):.0f}, "
              f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
