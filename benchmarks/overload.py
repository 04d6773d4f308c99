"""An endpoint that is asked for more than it can do: who is let in keeps the objective, the rest are refused at once.

    python benchmarks/overload.py [--seconds 60] [--times 3] [--objective 1.0] [--set max_queued=16]

A random Llama of 4 layers behind `ctl serve up` on a cluster of its own, which promises `--objective` seconds to the
first token: `endpoint.max_wait_seconds` is half of it. First one client: the latency of a streamed answer when
nothing else asks. Then as many clients as the engine computes answers at once: what it can do, in requests a second.
Then `--times` as many for `--seconds`, at random times whatever comes of them: of accepted requests the time to the
first token against the objective; of refused ones how long the refusal took, and that each says when to come again.
Then one client again. Memory is that of all processes of the cluster (resident.py), sampled every five seconds. `--set`
changes fields of the endpoint: `--set max_wait_seconds=0 --set max_queued=16` bounds the queue by a number alone.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import requests

from benchmarks.resident import Resident
from benchmarks.serving import made_model
from pipelines.stages.load.client import Sample
from pipelines.stages.load.driver import Driven, drive
from pipelines.stages.load.spec import LoadSpec
from pipelines.stages.load.target import probe
from pipelines.stages.load.workload import plan
from tests.cluster.local_cluster import LocalCluster, free_port

RUNNING = 8


def load(url: str, **given: object) -> Driven:
    spec = LoadSpec(url=url, seed=1, prompt_tokens="16", warmup=2, **given)  # type: ignore[arg-type]
    warm, measured = plan(spec, probe(url, ""))
    return asyncio.run(drive(url, "", warm, measured, concurrency=spec.concurrency, timeout_seconds=300))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def at_rest(url: str) -> str:
    """Medians of one client."""
    samples = load(url, concurrency=1, requests=20, output_tokens="32").samples
    first, whole = statistics.median(s.ttft or 0.0 for s in samples), statistics.median(s.e2e for s in samples)
    return f"TTFT {1000 * first:.0f} ms, whole {1000 * whole:.0f} ms"


def refused(samples: list[Sample]) -> list[float]:
    return [sample.ended - sample.sent for sample in samples if sample.failed == "429"]


def overload(url: str, rate: float, seconds: float, objective: float) -> None:
    driven = load(url, rate=rate, requests=int(rate * seconds), output_tokens="32")
    accepted = [sample for sample in driven.samples if not sample.failed]
    first = [sample.ttft or 0.0 for sample in accepted]
    took = refused(driven.samples)
    other = [sample.failed for sample in driven.samples if sample.failed and sample.failed != "429"]
    kept = sum(value <= objective for value in first)
    print(
        f"  {len(driven.samples)} asked at {rate:.1f}/s: {len(accepted)} accepted, {len(took)} refused with 429, "
        f"{len(other)} otherwise {sorted(set(other))}\n"
        f"  accepted, TTFT p50 / p95 / p99: {percentile(first, 0.5):.2f} / {percentile(first, 0.95):.2f} / "
        f"{percentile(first, 0.99):.2f} s; {kept} of {len(accepted)} within {objective:g} s\n"
        f"  refused after, p50 / p95 / p99: {1000 * percentile(took, 0.5):.0f} / {1000 * percentile(took, 0.95):.0f} / "
        f"{1000 * percentile(took, 0.99):.0f} ms\n"
        f"  the client: {driven.cpu_share:.0%} of a core, its loop late by "
        f"{1000 * percentile(driven.loop_lags, 0.95):.0f} ms (p95)",
        flush=True,
    )


def says_when(url: str) -> str:
    """What a refusal of a full endpoint says."""
    body = {"model": "bench", "prompt": "x", "max_tokens": 512, "ignore_eos": True, "n": 16, "stream": True}
    with requests.Session() as session:
        full = [session.post(f"{url}/completions", json=body, stream=True, timeout=60) for _ in range(6)]
        reply = requests.post(f"{url}/completions", json=body | {"n": 1}, timeout=60)
        for each in full:
            each.close()
    return f"{reply.status_code}, Retry-After {reply.headers.get('retry-after')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=3)
    parser.add_argument("--objective", type=float, default=1.0, help="seconds to the first token")
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE of the endpoint")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = made_model(folder)
        cluster = LocalCluster(folder / "home", free_port(), free_port())
        cluster.home.mkdir(exist_ok=True)
        port, resident = free_port(), Resident(cluster.home)
        url, store = f"http://127.0.0.1:{port}/v1", ("--store", model.store_url)
        sets = (f"max_running={RUNNING}", "kv_cache_gib=0.25", f"max_wait_seconds={given.objective / 2}", *given.set)
        options = [word for each in sets for word in ("--set", f"endpoint.{each}")]
        try:
            cluster.up(num_cpus=2)
            cluster.ctl("serve", "up", model.record.ref, "--name", "bench", "--port", str(port), *options, *store)
            print(f"at rest: {at_rest(url)}", flush=True)
            begun = time.monotonic()
            full = load(url, concurrency=RUNNING, requests=20 * RUNNING, output_tokens="32")
            capacity = len(full.samples) / (time.monotonic() - begun)
            print(f"it can do {capacity:.1f} requests/s; memory {resident.now():.0f} MiB", flush=True)
            with resident:
                overload(url, given.times * capacity, given.seconds, given.objective)
            print(f"  memory: {resident.most:.0f} MiB at most, {resident.now():.0f} after", flush=True)
            print(f"afterwards: {at_rest(url)}", flush=True)
            print(f"when full: {says_when(url)}", flush=True)
        finally:
            cluster.ctl("down")


if __name__ == "__main__":
    main()
