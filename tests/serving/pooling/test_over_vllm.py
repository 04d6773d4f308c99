"""A reward model through vLLM's engine, and as an endpoint that `ctl` brings up: the score is the reward stage's."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

import httpx
import openai
import pytest

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.store import Store
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.sample import Sample
from serving.batch.over_engines import Engine
from serving.engine import engine_environment
from tests.cli.command import CTL, ctl
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.serving.pooling import models

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]

ANSWERS = ["yes", " no more", "Be brief."]
ASKED = [{"role": "user", "content": "ask"}]


@pytest.mark.exhaustive
def test_lines_of_a_batch_are_scored_by_an_engine(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked as an actor of `ctl batch` is, without Ray."""
    artifact = models.reward(Store(tmp_path), hidden_size=64)
    own, spec = RewardModel(artifact.local()), EndpointSpec(model="m", kv_cache_gib=0.1)
    for name, value in engine_environment(spec).items():
        monkeypatch.setenv(name, value)
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/score", {"queries": ASKED, "documents": ANSWERS}),
        ("/v1/score", {"queries": ASKED, "documents": ANSWERS, "continue_final_message": True}),
        ("/pooling", {"messages": [*ASKED, {"role": "assistant", "content": "yes"}]}),
        ("/v1/chat/completions", {"messages": ASKED}),
        ("/v1/embeddings", {"input": "x"}),
        ("/tokenize", {"prompt": "ask"}),
    ]

    async def work() -> list[Any]:
        engine = Engine(artifact.store_url, artifact.kind, artifact.fingerprint, spec)
        rows = [{"number": n, "url": url, "body": json.dumps(body)} for n, (url, body) in enumerate(bodies)]
        answers = await asyncio.gather(*map(engine, rows))
        return [(each["status"], json.loads(each["answer"])) for each in answers]

    whole, cut, pooled, chat, vectors, tokens = asyncio.run(work())
    for (status, told), finished in ((whole, True), (cut, False)):
        expected = own.score_samples([Sample(ASKED, text, finished) for text in ANSWERS])
        assert status == 200 and [each["score"] for each in told["data"]] == pytest.approx(expected, abs=1e-4)
    assert pooled[1]["data"][0]["data"] == pytest.approx([whole[1]["data"][0]["score"]], abs=1e-5)
    for status, told in (chat, vectors):
        assert status == 400 and told["error"]["code"] == "unsupported_model"
    assert tokens[1]["count"] == 1


@pytest.mark.exhaustive
def test_ctl_serves_a_reward_model_and_does_not_talk_to_it(tmp_path: Any) -> None:
    store = Store(tmp_path / "store")
    artifact = models.reward(store, hidden_size=64)
    refused = ctl("chat", "--model", artifact.record.ref, "--store", artifact.store_url, timeout=240)
    assert refused.returncode == 3 and "scores texts, and does not write" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) <= 2
    (tmp_path / "home").mkdir()
    cluster = LocalCluster(tmp_path / "home", free_port(), free_port())
    port = free_port()
    try:
        cluster.up(num_cpus=2)
        given = ("--port", str(port), "--name", "judge", "--set", "endpoint.kv_cache_gib=0.1")
        said = cluster.ctl("serve", "up", artifact.record.ref, *given, "--store", artifact.store_url, timeout=840)
        assert "is ready" in said and f"127.0.0.1:{port}/v1/score" in said and "to talk to it" not in said
        url = f"http://127.0.0.1:{port}/v1"
        body = {"model": "judge", "queries": ASKED, "documents": ANSWERS}
        told = httpx.post(f"{url}/score", json=body, timeout=60)
        expected = RewardModel(artifact.local()).score_samples([Sample(ASKED, text, True) for text in ANSWERS])
        assert [each["score"] for each in told.json()["data"]] == pytest.approx(expected, abs=1e-4)
        assert told.headers["trunkline-artifact"] == artifact.record.ref
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="and nothing else: ask /v1/score"):
            client.chat.completions.create(model="judge", messages=[{"role": "user", "content": "x"}])
        talk = subprocess.run(
            [CTL, "chat", "--endpoint", url], input="hello\nagain\n", capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert talk.returncode == 3 and talk.stderr.count("and nothing else: ask /v1/score") == 1
        assert httpx.get(f"{url.removesuffix('/v1')}/", timeout=60).status_code == 404  # no page
        cluster.ctl("serve", "down", "judge")
    finally:
        cluster.ctl("down")
    assert os.path.isdir(artifact.local())
