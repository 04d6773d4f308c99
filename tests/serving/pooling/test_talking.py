"""Whoever talks to an endpoint that does not write is told so once."""

from __future__ import annotations

import asyncio

import pytest

from cluster.core.specs.endpoint import EndpointSpec, Limits
from cluster.core.storage.store import Store
from serving import repl
from serving.gateway import gateway
from serving.over_transformers import opened
from serving.remote import Remote
from serving.talk import DoesNotWrite, Sampling
from tests.serving.pooling import models
from tests.serving.running import running


@pytest.mark.timeout(240)
def test_a_chat_with_a_reward_model_ends_with_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = models.reward(Store(tmp_path_factory.mktemp("store")))
    made = gateway(opened(artifact).app("r", Limits()), "r", artifact.record.ref, EndpointSpec(model="m"), 0)
    monkeypatch.setattr("builtins.input", lambda *_: "hello")
    with running(asyncio.run(made)) as url, pytest.raises(DoesNotWrite, match="'r' scores texts, and nothing else"):
        repl.chat(Remote(url), Sampling())
