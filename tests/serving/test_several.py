"""An endpoint of two replicas and several models, while it is asked: engines are lost, models come and go.

No answer fails, and none is given by a model that its name does not mean.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.serving.engines import engines
from tests.serving.watching.collector import Collector
from tests.tuning.made_adapters import by_method
from tests.tuning.tiny_sft import make_inputs, write_sources

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(1800)]

TOKENS = 200
STREAMS = 6
FIELDS = ("min_replicas=2", "max_replicas=2", "max_adapters=2", "health.period_seconds=1", "health.timeout_seconds=4",
          "kv_cache_gib=0.25")  # fmt: skip
SETS = [option for field in FIELDS for option in ("--set", f"endpoint.{field}")]
LOST_SECONDS = 4.0  # that a frozen engine is not found in less than


@dataclass
class Several:
    """The endpoint `chat` of a cluster, its model, two adapters over it and another model."""

    cluster: LocalCluster
    base_url: str
    collector: Collector
    own: Artifact
    adapters: list[Artifact]
    other: Artifact

    def ctl(self, *arguments: str, code: int = 0) -> str:
        return self.cluster.ctl("serve", *arguments, code=code, timeout=840)

    def ask(self, model: str = "chat", **asked: Any) -> httpx.Response:
        body = {"model": model, "prompt": "def add(", "max_tokens": 8, "temperature": 0, "ignore_eos": True, **asked}
        return httpx.post(f"{self.base_url}/completions", json=body, timeout=300)

    def engines(self) -> list[psutil.Process]:
        return engines(self.cluster.home)

    def wait_for_replicas(self, number: int) -> None:
        deadline = time.monotonic() + 600
        while True:
            told = json.loads(self.ctl("status", "chat", "--json"))
            running = [replica for replica in told["replicas"] if replica["state"] == "RUNNING"]
            if len(running) == number and told["status"] == "RUNNING":
                return
            assert time.monotonic() < deadline, told
            time.sleep(1)  # Serve sends no event


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    store, sources = Store(tmp_path_factory.mktemp("store")), tmp_path_factory.mktemp("sources")
    inputs = make_inputs(store, write_sources(sources))
    own, _ = by_method(inputs, store, "lora")
    adapters = [by_method({**inputs, "model": own}, store, "lora", seed=seed)[0] for seed in (2, 3)]
    cluster, port = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port()), free_port()
    with Collector() as collector:
        try:
            cluster.up(num_cpus=4)
            where = ("--name", "chat", "--port", str(port), "--store", store.root.url)
            traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
            cluster.ctl("serve", "up", own.record.ref, *where, *SETS, timeout=840, **traced)
            url = f"http://127.0.0.1:{port}/v1"
            yield Several(cluster, url, collector, own, adapters, inputs["model"])
        finally:
            cluster.ctl("down")


def stream(several: Several, started: threading.Semaphore, asked: dict[str, Any]) -> tuple[str, float, str]:
    """A streamed answer: its text, how long it took, and what its last event is."""
    body = {"model": "chat", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True, **asked}
    began, pieces, last = time.monotonic(), [], ""
    with httpx.stream("POST", f"{several.base_url}/completions", json=body, timeout=300) as reply:
        for line in reply.iter_lines():
            if not line:
                continue
            last = line
            told = json.loads(line[6:]) if line.startswith("data: {") else {"choices": []}
            assert "error" not in told, told
            pieces += [choice["text"] for choice in told["choices"]]
            if len(pieces) == 3:
                started.release()
    return "".join(pieces), time.monotonic() - began, last


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_streams_of_a_lost_engine_go_on_at_the_other(several: Several, how: signal.Signals) -> None:
    prompts = [f"def function_{number}(" for number in range(STREAMS)]
    expected = {
        prompt: several.ask(prompt=prompt, max_tokens=TOKENS).json()["choices"][0]["text"] for prompt in prompts
    }
    first, _ = several.engines()
    started = threading.Semaphore(0)
    with ThreadPoolExecutor(STREAMS) as pool:
        found = {prompt: pool.submit(stream, several, started, {"prompt": prompt}) for prompt in prompts}
        for _ in prompts:
            assert started.acquire(timeout=120)
        first.send_signal(how)
        told = {prompt: future.result(timeout=300) for prompt, future in found.items()}
    took = sorted(seconds for _, seconds, _ in told.values())
    print(f"{how.name}: streams of {TOKENS} tokens took {', '.join(f'{seconds:.1f}' for seconds in took)} s")
    assert {prompt: text for prompt, (text, _, _) in told.items()} == expected
    assert all(last == "data: [DONE]" for _, _, last in told.values())
    if how == signal.SIGSTOP:
        assert took[-1] > LOST_SECONDS > took[0]  # those of the other replica did not notice
    assert several.ask().status_code == 200  # while there is one replica
    several.wait_for_replicas(2)
    assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE


class Asking:
    """Clients that ask a model again and again; the statuses and artifacts that came, by when it was asked."""

    def __init__(self, several: Several, model: str) -> None:
        self.several, self.model, self.found = several, model, list[tuple[float, int, str]]()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stopped.is_set():
            at = time.monotonic()
            reply = self.several.ask(self.model)
            self.found.append((at, reply.status_code, reply.headers.get("trunkline-artifact", "")))

    def __enter__(self) -> Asking:
        self.thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stopped.set()
        self.thread.join()


def test_models_come_and_go_while_they_are_asked(several: Several) -> None:
    first, second = several.adapters
    plain = several.ask().json()["choices"][0]["text"]
    said = several.ctl("load", "chat", f"gpt={several.own.record.ref}")
    assert "gpt" in said and several.ask("gpt").json()["choices"][0]["text"] == plain
    said = several.ctl("load", "chat", f"tuned={first.record.ref}")
    assert "as an adapter" in said
    with Asking(several, "tuned") as tuned, Asking(several, "chat") as own:
        began = time.monotonic()
        several.ctl("load", "chat", f"tuned={second.record.ref}")
        swapped = time.monotonic()
        time.sleep(1)  # answers of the second alone
    assert {status for _, status, _ in (*tuned.found, *own.found)} == {200}
    assert {artifact for at, _, artifact in tuned.found if at < began} <= {first.record.ref}
    assert {artifact for at, _, artifact in tuned.found if at > swapped} == {second.record.ref}
    assert {artifact for _, _, artifact in own.found} == {several.own.record.ref}
    answers = {name: several.ask(name, max_tokens=32).json()["choices"][0]["text"] for name in ("chat", "tuned")}
    assert answers["chat"] != answers["tuned"]

    said = several.ctl("load", "chat", f"base={several.other.record.ref}")
    assert "an engine of its own" in said
    reply = several.ask("base")
    assert (reply.status_code, reply.headers["trunkline-artifact"]) == (200, several.other.record.ref)
    listed = httpx.get(f"{several.base_url}/models", timeout=60).json()["data"]
    assert [card["id"] for card in listed] == ["chat", "gpt", "tuned", "base"]
    status = json.loads(several.ctl("status", "chat", "--json"))
    assert [(each["name"], each["place"]) for each in status["models"]] == [
        ("gpt", "own"), ("tuned", "adapter"), ("base", "application")
    ]  # fmt: skip
    with Asking(several, "chat") as own:
        for name in ("base", "tuned", "gpt"):
            several.ctl("unload", "chat", name)
            assert several.ask(name).status_code == 404
    assert {status for _, status, _ in own.found} == {200}
    assert "has no model 'gpt'" in several.ctl("unload", "chat", "gpt", code=3)
    assert len(several.engines()) == 2


def test_the_engines_span_is_within_the_requests(several: Several) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    body = {"model": "chat", "prompt": "x", "max_tokens": 2}
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    assert httpx.post(f"{several.base_url}/completions", json=body, headers=headers, timeout=60).status_code == 200

    def of_this(name: str) -> list[Any]:
        return [span for span in several.collector.wait_for(name) if span.trace_id.hex() == trace]

    deadline = time.monotonic() + 60
    while not (of_this("POST /v1/completions") and of_this("llm_request")):
        assert time.monotonic() < deadline
        time.sleep(0.2)  # both come when their exporters send them
    (request,), (engine,) = of_this("POST /v1/completions"), of_this("llm_request")
    assert request.parent_span_id.hex() == "b7ad6b7169203331" and engine.parent_span_id == request.span_id
    assert "trunkline" in several.collector.services


def test_nothing_is_left(several: Several, tmp_path: Path) -> None:
    several.ctl("down", "chat")
    assert several.engines() == []
