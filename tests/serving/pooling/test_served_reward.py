"""A run's reward that asks an endpoint's score route gives what the reward model in its process gives."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch

from cluster.core.errors import NotReadyError, SpecError
from cluster.core.specs.endpoint import EndpointSpec, Limits
from cluster.core.storage.store import Store
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.pool import Pool
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.rewards.served_reward_model import ServedRewardModel
from serving.gateway import gateway
from serving.over_transformers import opened
from tests.serving.pooling import models
from tests.serving.running import running

ASKED = [{"role": "user", "content": "ask"}]
SAMPLES = [Sample(ASKED, text, finished) for text in ("yes", " no more") for finished in (True, False)]
SAMPLES.append(Sample([{"role": "user", "content": "yes " * 99}], "no", True))  # longer than the model's context


@pytest.mark.timeout(240)
def test_it_is_the_reward_models_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a process of rewards, as a run asks it."""
    artifact = models.reward(Store(tmp_path_factory.mktemp("store")))
    expected = torch.tensor(RewardModel(artifact.local()).score_samples(SAMPLES)).sigmoid().tolist()
    model = opened(artifact)
    made = gateway(model.app("r", Limits()), "r", artifact.record.ref, EndpointSpec(model="m", page=False), 0)
    with running(asyncio.run(made)) as url:
        reward = ServedRewardModel(url=f"{url}/v1", model="r")
        reward.require()
        pool = Pool({"scorer": reward}, 0, 1, 1 << 31)
        try:
            assert pool.score(SAMPLES, 200)["scorer"] == pytest.approx(expected, abs=1e-6)
        finally:
            pool.close()
        with pytest.raises(NotReadyError, match="the model 'other' does not exist"):
            ServedRewardModel(url=f"{url}/v1", model="other").require()


@pytest.mark.parametrize("pause", ["0.01", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch, pause: str) -> None:
    """And one that refuses is not; it is shown the key of the environment."""
    seen: list[str] = []
    answers = [(503, b"{}"), (200, b'{"data": [{"score": 0}]}'), (403, b'{"error": "no"}')]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(f"{self.path} {self.headers['Authorization']}")
            status, body = answers[len(seen) - 1]
            self.send_response(status)
            self.send_header("Retry-After", pause)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("A_KEY", "sk-1")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        reward = ServedRewardModel(url=f"http://127.0.0.1:{server.server_port}/v1", api_key_env="A_KEY")
        assert reward.of(SAMPLES[0]) == 0.5
        with pytest.raises(ValueError, match="403"):
            reward.of(SAMPLES[0])
    finally:
        server.shutdown()
    assert seen == ["/v1/score Bearer sk-1"] * 3


def test_what_is_no_address_is_refused() -> None:
    for url in ("localhost:8000", "http://user:secret@host/v1", "ftp://host"):
        with pytest.raises(SpecError, match=r"rlhf\.rewards\.x\.url"):
            ServedRewardModel(url=url).check("rlhf.rewards.x")
    with pytest.raises(NotReadyError, match="gives no scores"):
        ServedRewardModel(url="http://127.0.0.1:9/v1").require()
