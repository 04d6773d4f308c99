"""On a real KubeRay: another model takes over under clients, and no request fails; one that cannot start does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.core.storage.store import Store
from cluster.kubernetes.objects import Order
from pipelines.specs import EndpointSpec, InfraSpec, PretrainSpec
from tests.evaluation.tiny_run import commit_model
from tests.infra.orders import order
from tests.kubernetes.on_pods import SERVICE, SMALL, Clients, apply, hand_over, until, volume, with_pods
from tests.kubernetes.server import Server
from tests.serving.conftest import write_model

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(1500)]

CLIENTS = 16
START_SECONDS = 400
INFRA = InfraSpec(**SMALL)  # type: ignore[arg-type]


def serving(model: str) -> Order:
    endpoint = EndpointSpec(model=model, served_name="chat", kv_cache_gib=0.05, max_model_len=64)
    return order(INFRA, endpoint=endpoint)


def service(server: Server) -> Any:
    found = server.kubectl("-n", INFRA.namespace, "get", "rayservice", "trunkline-endpoint", "-o", "json")
    return json.loads(found).get("status", {})


def test_another_model_takes_over_and_a_broken_one_does_not(tmp_path: Any) -> None:
    with with_pods("--nodes", "2", "--cpus", "8") as server:
        folder = volume(server, INFRA)
        write_model(tmp_path / "model")
        store = Store(str(folder))
        old, new = (commit_model(store, tmp_path / "model", PretrainSpec(seed=seed), {}) for seed in (1, 2))
        hand_over(folder)
        apply(server, serving(old.record.ref), "endpoint")
        until("the endpoint", START_SECONDS, lambda: _is_ready(server))
        path = SERVICE.format(INFRA.name) + "/v1/completions"
        asked = {"model": "chat", "prompt": "def", "max_tokens": 2}
        until("the first answer", 60, lambda: server.ask("POST", path, asked)[0] == 200)
        with Clients(server, path, asked, CLIENTS, pause_seconds=3.0) as clients:
            until("answers", 60, lambda: len(clients.got) >= 2 * CLIENTS)
            assert len(clients.answering()) == 1
            (first,) = clients.answering()
            apply(server, serving(new.record.ref), "endpoint")
            until("answers of the new model", START_SECONDS, lambda: first not in clients.answering())
            until("the old cluster's end", 200, lambda: _clusters(server) == 1)
            (second,) = clients.answering()
            assert first != second
            print(f"rolled: {len(clients.got)} requests, {len(clients.failed())} failed")
            apply(server, serving("pretrain/ghost"), "endpoint")
            until(
                "the failure of what cannot start",
                START_SECONDS,
                lambda: "DEPLOY_FAILED" in json.dumps(service(server)),
            )
            assert clients.answering() == {second}
            apply(server, serving(new.record.ref), "endpoint")
            until("the end of what cannot start", 200, lambda: _clusters(server) == 1)
            assert clients.answering() == {second}
        assert clients.failed() == [], f"{len(clients.failed())} of {len(clients.got)}"


def _is_ready(server: Server) -> bool:
    conditions = service(server).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _clusters(server: Server) -> int:
    found = server.kubectl("-n", INFRA.namespace, "get", "raycluster", "-o", "json")
    return len(json.loads(found)["items"])
