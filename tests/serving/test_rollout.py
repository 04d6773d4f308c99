"""An endpoint that is changed and hurt while clients ask it: none of them is to notice more than it must."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.evaluation.tiny_run import commit_model
from tests.serving.conftest import write_model
from tests.serving.engines import engines
from tests.serving.load import Load, ask

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(1800)]

CONTEXT = 4096
LONG = 200  # tokens of an answer that takes a while
LONGER = 1500  # of one that takes longer than the start of a replica
LONGEST = CONTEXT - 100  # of one that is not waited for
FIELDS = ("health.period_seconds=2", "health.timeout_seconds=6", "drain_seconds=600", "kv_cache_gib=2")
SETS = [option for field in FIELDS for option in ("--set", f"endpoint.{field}")]


@dataclass
class Rolled:
    """The endpoint `chat` of a cluster, and two versions of its model."""

    cluster: LocalCluster
    port: int
    store: Store
    first: Artifact
    second: Artifact

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def up(self, *options: str) -> str:
        where = ("--name", "chat", "--port", str(self.port), "--store", self.store.root.url)
        return self.cluster.ctl("serve", "up", self.first.record.ref, *where, *SETS, *options, timeout=840)

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.cluster.ctl("serve", "status", "chat", "--json")))

    def running(self) -> list[dict[str, Any]]:
        return [replica for replica in self.status()["replicas"] if replica["state"] == "RUNNING"]

    def engines(self) -> list[psutil.Process]:
        return engines(self.cluster.home)


def write_slow_model(folder: Path, seed: int) -> None:
    """The tiny model's tokenizer, and enough weights that a long answer takes seconds."""
    write_model(folder)
    torch.manual_seed(seed)
    config = LlamaConfig.from_pretrained(folder)
    config.update({"hidden_size": 768, "num_hidden_layers": 16, "num_attention_heads": 12, "num_key_value_heads": 12,
                   "head_dim": 64, "intermediate_size": 1536, "max_position_embeddings": CONTEXT,
                   "initializer_range": 0.05})  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolled]:
    store, versions = Store(tmp_path_factory.mktemp("store")), []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("model")
        write_slow_model(folder, seed)
        versions.append(commit_model(store, folder, PretrainSpec(seed=seed), {}))
        shutil.rmtree(folder)
    store.set_alias("chat@prod", versions[0])
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    try:
        cluster.up(num_cpus=4)
        found = Rolled(cluster, free_port(), store, *versions)
        assert "is ready" in found.up()
        yield found
    finally:
        cluster.ctl("down")


class Streams(Load):
    """One long stream of each client, and no more."""

    async def _run(self) -> None:
        async with httpx.AsyncClient(base_url=self.base_url, timeout=300) as client:
            asked = (ask(client, self.tokens, streamed=True) for _ in range(self.clients))
            self.answers += await asyncio.gather(*asked)


def wait_until_ongoing(rolled: Rolled, count: int) -> None:
    """Wait until so many requests are with the replicas that run."""
    while sum(replica["ongoing"] or 0 for replica in rolled.running()) < count:
        time.sleep(0.2)


def answers(rolled: Rolled) -> bool:
    with Streams(rolled.base_url, clients=1, tokens=4) as streams:
        pass
    return not streams.failed


def test_what_status_and_logs_tell(rolled: Rolled) -> None:
    status = rolled.status()
    assert (status["name"], status["model"], status["before"]) == ("chat", rolled.first.record.ref, "")
    (replica,) = rolled.running()
    assert replica["model"] == rolled.first.record.ref and replica["ongoing"] == 0
    said = rolled.cluster.ctl("serve", "status", "chat")
    assert "RUNNING, 1 of 1 replicas" in said and replica["id"] in said
    assert replica["id"] in rolled.cluster.ctl("serve", "logs", "chat")
    assert "no endpoint is called 'chta'" in rolled.cluster.ctl("serve", "status", "chta", code=3)
    assert "has had no version before" in rolled.cluster.ctl("serve", "rollback", "chat", code=3)


def test_a_roll_finishes_what_has_begun(rolled: Rolled) -> None:
    """An alias that is switched is rolled by its name; a rollback is one command."""
    with Streams(rolled.base_url, clients=3, tokens=LONGER) as streams:
        wait_until_ongoing(rolled, 3)
        said = rolled.cluster.ctl("serve", "roll", "chat", rolled.second.record.ref, timeout=840)
    assert f"1 replicas serve {rolled.second.record.ref}" in said
    assert not streams.failed and streams.artifacts == {rolled.first.record.ref: 3}
    assert rolled.status()["before"].endswith(rolled.first.fingerprint[:12])
    with Load(rolled.base_url, clients=2) as load:
        load.wait_for(4)
        said = rolled.cluster.ctl("serve", "rollback", "chat", timeout=840)
        load.wait_for(10)
    assert f"serve {rolled.first.record.ref}" in said and not load.failed
    assert set(load.artifacts) == {rolled.first.record.ref, rolled.second.record.ref}


def test_an_answer_that_takes_too_long_ends_with_an_error(rolled: Rolled) -> None:
    rolled.cluster.ctl("serve", "roll", "chat", "--set", "endpoint.drain_seconds=1", timeout=840)
    with Streams(rolled.base_url, clients=2, tokens=LONGEST) as streams:
        wait_until_ongoing(rolled, 2)
        rolled.cluster.ctl("serve", "roll", "chat", "--set", "endpoint.drain_seconds=600", timeout=840)
    assert [answer.failed for answer in streams.answers] == ["error event: engine_lost"] * 2


def test_a_frozen_engine_is_replaced(rolled: Rolled) -> None:
    (engine,) = rolled.engines()
    with Streams(rolled.base_url, clients=3, tokens=LONGEST) as streams:
        wait_until_ongoing(rolled, 3)
        engine.send_signal(signal.SIGSTOP)
        began = time.monotonic()
    print(f"streams of a frozen engine end after {time.monotonic() - began:.1f} s")
    assert [answer.failed for answer in streams.answers] == ["error event: engine_lost"] * 3
    deadline = time.monotonic() + 300
    while not answers(rolled):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    print(f"and it answers again after {time.monotonic() - began:.1f} s")
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    assert len(rolled.engines()) == 1


def test_a_client_that_leaves_frees_the_engine(rolled: Rolled) -> None:
    """Else the answer to who comes next, which one engine computes at a time, would wait for the whole of it."""
    one = ("--set", "endpoint.max_running=1", "--set", "endpoint.max_queued=0")
    rolled.cluster.ctl("serve", "roll", "chat", *one, timeout=840)
    while len([replica for replica in rolled.status()["replicas"] if replica["state"] != "ENDED"]) > 1:
        time.sleep(0.5)  # the one before may still be asked
    body = {"model": "chat", "prompt": "x", "max_tokens": LONGEST, "ignore_eos": True, "stream": True}
    short = {"model": "chat", "prompt": "x", "max_tokens": 1}
    with httpx.Client(base_url=rolled.base_url, timeout=300) as client:
        began = time.monotonic()
        with client.stream("POST", "/completions", json=body | {"max_tokens": 100}) as whole:
            for _ in whole.iter_lines():
                pass
        a_fortieth = time.monotonic() - began
        with client.stream("POST", "/completions", json=body) as left:
            lines = left.iter_lines()  # kept: where this goes, the connection does
            next(lines)
            refused = client.post("/completions", json=short)
            assert refused.status_code == 429 and refused.json()["error"]["code"] == "endpoint_overloaded"
            print(f"a refusal takes {refused.elapsed.total_seconds() * 1000:.0f} ms")
        began = time.monotonic()
        while client.post("/completions", json=short).status_code != 200:
            assert time.monotonic() < began + 10 * a_fortieth
        print(f"a client that leaves frees the engine after {time.monotonic() - began:.2f} s")
    rolled.cluster.ctl("serve", "roll", "chat", "--set", "endpoint.max_running=0", "--set", "endpoint.max_queued=64",
                       timeout=840)  # fmt: skip


def test_no_request_is_lost_while_it_is_rolled_scaled_and_killed(rolled: Rolled) -> None:
    """But those that the killed replica had."""
    with Load(rolled.base_url) as load:
        load.wait_for(40)
        rolled.cluster.ctl("serve", "scale", "chat", "2", timeout=840)
        load.wait_for(40)
        rolled.store.set_alias("chat@prod", rolled.second)
        rolled.cluster.ctl("serve", "roll", "chat", "chat@prod", timeout=840)
        load.wait_for(80)
        assert not load.failed, load.failed
        before = len(load.answers)
        victim, other = rolled.running()
        os.kill(victim["pid"], signal.SIGKILL)
        killed_at = time.time()
        while victim["id"] in (ids := [replica["id"] for replica in rolled.running()]) or len(ids) < 2:
            time.sleep(0.5)
        load.wait_for(40)
        lost = load.failed
        rolled.cluster.ctl("serve", "scale", "chat", "1", timeout=840)
        load.wait_for(40)
        assert other["id"] != victim["id"]
    in_flight = [answer for answer in lost if answer.asked_at <= killed_at]
    print(f"{len(load.answers)} requests, {before} before the kill; lost with the killed replica: {lost}")
    print(f"the longest took {max(answer.seconds for answer in load.answers):.1f} s; {load.artifacts}")
    assert lost == in_flight and len(lost) <= load.clients
    assert load.failed == lost
    assert set(load.artifacts) == {rolled.first.record.ref, rolled.second.record.ref}
    ended = max(answer.asked_at for answer in load.answers if answer.artifact == rolled.first.record.ref)
    begun = min(answer.asked_at for answer in load.answers if answer.artifact == rolled.second.record.ref)
    assert ended < killed_at and begun < killed_at


def test_a_canary_is_shifted_and_promoted_by_its_figures(rolled: Rolled) -> None:
    """Without a request that fails; a shadow's answers reach nobody."""
    (running,) = {replica["model"] for replica in rolled.running()}
    other = rolled.first if running == rolled.second.record.ref else rolled.second
    with Load(rolled.base_url) as load:
        rolled.cluster.ctl("serve", "canary", "chat", other.record.ref, "--shadow", "--weight", "0.5", timeout=840)
        load.wait_for(40)
        assert set(load.artifacts) == {running}
        rolled.cluster.ctl("serve", "canary", "chat", "--weight", "0.5", timeout=240)
        began = len(load.answers)
        load.wait_for(100)
        shares = Counter(answer.artifact for answer in load.answers[began + 20 :])
        assert 0.2 < shares[other.record.ref] / shares.total() < 0.8, shares
        figures = rolled.cluster.ctl("serve", "promote", "chat", "--figures")
        assert "stable_p95_ttft_seconds" in figures and "failed_fraction" in figures
        said = rolled.cluster.ctl("serve", "promote", "chat", "--if", "p95_seconds <= 0.000001", code=5)
        assert "not promoted: p95_seconds is " in said
        condition = ("--if", "failed_fraction <= 0 and requests >= 10")
        said = rolled.cluster.ctl("serve", "promote", "chat", *condition, timeout=840)
        assert f"serve {other.record.ref}" in said
        began = len(load.answers)
        load.wait_for(60)
    assert not load.failed, load.failed
    assert {answer.artifact for answer in load.answers[began + 20 :]} == {other.record.ref}
    print(f"{len(load.answers)} requests while a canary came, was shifted and promoted: {load.artifacts}")
    pairs = (rolled.cluster.home / ".trunkline/shadows/chat.canary.jsonl").read_text().splitlines()
    assert pairs and json.loads(pairs[0]).keys() == {"asked", "stable", "shadow"}
    assert [e["name"] for e in json.loads(rolled.cluster.ctl("serve", "list", "--json"))] == ["chat"]


def test_down_finishes_what_has_begun(rolled: Rolled) -> None:
    with Streams(rolled.base_url, clients=2, tokens=LONG) as streams:
        wait_until_ongoing(rolled, 2)
        assert rolled.cluster.ctl("serve", "down", "chat", timeout=300) == "chat is down\n"
    assert not streams.failed and len(streams.answers) == 2
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{rolled.base_url}/models")
