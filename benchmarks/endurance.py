"""An endpoint that is asked for long, and rolled again and again: whether memory grows, and what is left in the end.

    python benchmarks/endurance.py [--requests 10000] [--rolls 50] [--warm-requests 500] [--warm-rolls 3]

A random Llama of 4 layers behind `ctl serve up` on a cluster of its own. After some requests that are not counted
come `--requests` of one token by 16 clients, of which memory is taken ten times; after some rolls that are not
counted come `--rolls` times `ctl serve roll` between two artifacts, each followed by a request of the new one, with
memory taken when the replica before has gone. Memory is that of all processes of the cluster (resident.py); a slope
is by least squares, with its standard error. What is left after `ctl serve down` is compared with what ran before
`ctl serve up`, and after `ctl down` with nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import requests

from benchmarks.resident import Resident, named
from benchmarks.serving import made_model
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from pipelines.stages.load.driver import drive
from pipelines.stages.load.spec import LoadSpec
from pipelines.stages.load.target import probe
from pipelines.stages.load.workload import plan
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.evaluation.tiny_run import commit_model

PARTS = 10  # of the requests, between which memory is taken
GONE_SECONDS = 120.0  # that the processes of an endpoint may take to end
ENDPOINT = ("VLLM::", "ray::ServeReplica")


def ask(url: str, count: int) -> None:
    """So many answers of a token, by 16 clients. Raises RuntimeError where one fails."""
    spec = LoadSpec(url=url, seed=1, prompt_tokens="16", warmup=0, concurrency=16, requests=count, output_tokens="1",
                    stream=False)  # fmt: skip
    warm, measured = plan(spec, probe(url, ""))
    driven = asyncio.run(drive(url, "", warm, measured, concurrency=spec.concurrency, timeout_seconds=300))
    if failed := Counter(sample.failed for sample in driven.samples if sample.failed):
        raise RuntimeError(f"requests failed: {failed}")


def slope(values: Sequence[float], step: float = 1.0) -> str:
    """Growth for each `step` by least squares, and its standard error."""
    if len(values) < 3:
        return "too few for a slope"
    at = np.arange(len(values)) / step
    at -= at.mean()
    grows = (at @ values) / (at @ at)
    rest = values - np.mean(values) - grows * at
    error = np.sqrt(rest @ rest / (len(at) - 2) / (at @ at))
    return f"{grows:+.2f} MiB each, standard error {error:.2f}"


def grown(before: Counter[str], after: Counter[str]) -> str:
    """What has become larger or smaller by a MiB or more, the largest change first."""
    changes = {name: after[name] - before[name] for name in {*before, *after}}
    told = sorted(((name, mib) for name, mib in changes.items() if abs(mib) >= 1), key=lambda pair: -abs(pair[1]))
    return ", ".join(f"{name} {mib:+.0f}" for name, mib in told) or "nothing by a MiB"


def titles(resident: Resident) -> Counter[str]:
    return Counter(named(process.cmdline()) for process in resident.processes())


def wait_for_engines(resident: Resident, count: int) -> int:
    """Until so many engines and as many of their replicas are left; how many engines are."""
    deadline = time.monotonic() + GONE_SECONDS
    while len(found := resident.processes("VLLM::")) > count and time.monotonic() < deadline:
        time.sleep(0.5)
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rolls", type=int, default=50)
    parser.add_argument("--warm-requests", type=int, default=500)
    parser.add_argument("--warm-rolls", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = made_model(folder)
        other = commit_model(Store(model.store_url), folder / "model", PretrainSpec(seed=99), {})
        cluster = LocalCluster(folder / "home", free_port(), free_port())
        cluster.home.mkdir(exist_ok=True)
        port, resident = free_port(), Resident(cluster.home)
        url, store = f"http://127.0.0.1:{port}/v1", ("--store", model.store_url)
        try:
            cluster.up(num_cpus=2)
            empty = titles(resident)
            cache = ("--set", "endpoint.kv_cache_gib=0.25")
            cluster.ctl("serve", "up", model.record.ref, "--name", "bench", "--port", str(port), *cache, *store)
            if given.requests:
                answered(url, resident, given.warm_requests, given.requests)
            if given.rolls:
                rolled(cluster, url, resident, [other.record.ref, model.record.ref], given.warm_rolls, given.rolls)
            cluster.ctl("serve", "down", "bench", timeout=300)
            engines = wait_for_engines(resident, 0)
            left = titles(resident) - empty
            print(f"after `ctl serve down`: {engines} engines; beside what ran before: {dict(left) or 'nothing'}")
        finally:
            cluster.ctl("down")
        print(f"after `ctl down`: {dict(titles(resident)) or 'nothing'}")


def answered(url: str, resident: Resident, warm: int, count: int) -> None:
    ask(url, max(1, warm))
    before, values, began = resident.by_name(), list[float](), time.monotonic()
    values.append(sum(before.values()))
    for _ in range(PARTS):
        ask(url, max(1, count // PARTS))
        values.append(resident.now())
    after, seconds = resident.by_name(), time.monotonic() - began
    print(
        f"{count} requests in {seconds:.0f} s: {values[0]:.0f} to {values[-1]:.0f} MiB "
        f"({values[-1] / values[0] - 1:+.1%}); of a thousand {slope(values, 1000 * PARTS / count)}\n"
        f"  {grown(before, after)}",
        flush=True,
    )


def rolled(cluster: LocalCluster, url: str, resident: Resident, refs: list[str], warm: int, count: int) -> None:
    values = list[float]()
    before: Counter[str] = Counter()
    for number in range(warm + count):
        began, ref = time.monotonic(), refs[number % 2]
        cluster.ctl("serve", "roll", "bench", ref, timeout=600)
        took, engines = time.monotonic() - began, wait_for_engines(resident, 1)
        said = requests.post(f"{url}/completions", json={"model": "bench", "prompt": "x", "max_tokens": 1}, timeout=60)
        if said.status_code != 200 or said.headers["trunkline-artifact"] != ref:
            raise RuntimeError(f"roll {number + 1}: {said.status_code} by {said.headers.get('trunkline-artifact')}")
        found = resident.by_name()
        values.append(sum(found.values()))
        if number + 1 == max(1, warm):
            before = found
        print(f"roll {number + 1}: {took:.0f} s, {values[-1]:.0f} MiB, {engines} engine(s)", flush=True)
    counted = values[max(0, warm - 1) :]
    print(
        f"{count} rolls: {counted[0]:.0f} to {counted[-1]:.0f} MiB ({counted[-1] / counted[0] - 1:+.1%}); "
        f"{slope(counted)}\n  {grown(before, resident.by_name())}",
        flush=True,
    )


if __name__ == "__main__":
    main()
