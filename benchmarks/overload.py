"""An endpoint that is asked for more than it can do, then for much for long, then rolled again and again.

    python benchmarks/overload.py [--seconds 60] [--times 3] [--requests 10000] [--redeploys 3]

A random Llama of 4 layers behind `ctl serve up` on a cluster of its own. First one client: the latency of a streamed
answer when nothing else asks. Then as many clients as the engine computes answers at once: what it can do, in requests
a second. Then `--times` as many for `--seconds`, at random times whatever comes of them: of accepted requests the time
to the first token against the objective, which follows from the queue (`--set endpoint.max_queued` divided by what it
can do, and twice the time at rest); of refused ones how long the refusal took, and that each says when to come again.
Then one client again. Then `--requests` short ones by 16 clients, and `--redeploys` times `ctl serve roll`. Memory is
the resident one of all processes of the cluster, sampled each second; orphans are engines that are left at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import requests

from benchmarks.serving import made_model
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from pipelines.stages.load.client import Sample
from pipelines.stages.load.driver import Driven, drive
from pipelines.stages.load.spec import LoadSpec
from pipelines.stages.load.target import probe
from pipelines.stages.load.workload import plan
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.evaluation.tiny_run import commit_model

RUNNING, QUEUED = 8, 16
SAMPLE_SECONDS = 1.0
MIB = 2**20


class Memory:
    """The resident memory of a cluster's processes, taken once a second while it is a context."""

    def __init__(self, home: Path) -> None:
        self.home, self.most = str(home), 0
        self._end = threading.Event()

    def processes(self, beginning: str = "") -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, IndexError):
                if process.environ().get("HOME") == self.home and process.cmdline()[0].startswith(beginning):
                    found.append(process)
        return found

    def now(self) -> int:
        total = 0
        for process in self.processes():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def __enter__(self) -> Memory:
        self._end.clear()
        self.most = 0
        self._thread = threading.Thread(target=self._take)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()
        self._thread.join()

    def _take(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            self.most = max(self.most, self.now())


def load(url: str, **given: object) -> Driven:
    spec = LoadSpec(url=url, seed=1, prompt_tokens="16", warmup=2, **given)  # type: ignore[arg-type]
    warm, measured = plan(spec, probe(url, ""))
    return asyncio.run(drive(url, "", warm, measured, concurrency=spec.concurrency, timeout_seconds=300))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def at_rest(url: str) -> tuple[float, float]:
    """Medians of one client: seconds to the first token, and to the last."""
    samples = load(url, concurrency=1, requests=20, output_tokens="32").samples
    return statistics.median(s.ttft or 0.0 for s in samples), statistics.median(s.e2e for s in samples)


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
        f"{percentile(first, 0.99):.2f} s; {kept} of {len(accepted)} within {objective:.2f} s\n"
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
        full = [session.post(f"{url}/completions", json=body, stream=True, timeout=60) for _ in range(3)]
        reply = requests.post(f"{url}/completions", json=body | {"n": 1}, timeout=60)
        for each in full:
            each.close()
    return f"{reply.status_code}, Retry-After {reply.headers.get('retry-after')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=3)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--redeploys", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = made_model(folder)
        other = commit_model(
            Store(model.store_url), folder / "model", PretrainSpec(seed=99), {}
        )  # the same, for rolling
        cluster = LocalCluster(folder / "home", free_port(), free_port())
        cluster.home.mkdir(exist_ok=True)
        port, memory = free_port(), Memory(cluster.home)
        url = f"http://127.0.0.1:{port}/v1"
        store = ("--store", model.store_url)
        sets = (f"max_running={RUNNING}", f"max_queued={QUEUED}", "kv_cache_gib=0.25")
        options = [word for each in sets for word in ("--set", f"endpoint.{each}")]
        try:
            cluster.up(num_cpus=2)
            cluster.ctl("serve", "up", model.record.ref, "--name", "bench", "--port", str(port), *options, *store)
            rest_first, rest = at_rest(url)
            print(f"at rest: TTFT {1000 * rest_first:.0f} ms, whole {1000 * rest:.0f} ms", flush=True)
            begun = time.monotonic()
            full = load(url, concurrency=RUNNING, requests=20 * RUNNING, output_tokens="32")
            capacity = len(full.samples) / (time.monotonic() - begun)
            objective = QUEUED / capacity + 2 * rest
            before = memory.now()
            print(f"it can do {capacity:.1f} requests/s; memory {before / MIB:.0f} MiB", flush=True)
            with memory:
                overload(url, given.times * capacity, given.seconds, objective)
            print(f"  memory: {memory.most / MIB:.0f} MiB at most, {memory.now() / MIB:.0f} after", flush=True)
            after_first, after = at_rest(url)
            print(f"afterwards: TTFT {1000 * after_first:.0f} ms, whole {1000 * after:.0f} ms", flush=True)
            print(f"when full: {says_when(url)}", flush=True)
            load(url, concurrency=16, requests=max(1, given.requests // 10), output_tokens="1", stream=False)
            before = memory.now()
            with memory:
                load(url, concurrency=16, requests=given.requests, output_tokens="1", stream=False)
            now = memory.now()
            print(f"{given.requests} requests: {before / MIB:.0f} to {now / MIB:.0f} MiB ({now / before - 1:+.1%})")
            for number in range(given.redeploys):
                cluster.ctl("serve", "roll", "bench", (other, model)[number % 2].record.ref, timeout=300)
                engines = len(memory.processes("VLLM::"))
                print(f"roll {number + 1}: {memory.now() / MIB:.0f} MiB, {engines} engine(s)", flush=True)
            cluster.ctl("serve", "down", "bench", timeout=300)
            print(f"after the end: {len(memory.processes('VLLM::'))} engines are left")
        finally:
            cluster.ctl("down")


if __name__ == "__main__":
    main()
