"""What /metrics of the gateway tells: whose requests ended how, and nothing of a key but its id."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import REGISTRY

from cluster.core.specs.endpoint import EndpointSpec
from serving.gateway import ROUTES, gateway
from serving.keys.key import SCOPES, parsed
from serving.watching import counted, dashboard
from serving.watching.exposed import Labelled
from serving.watching.scrape import Scrape, read
from tests.conftest import ROOT
from tests.serving.keys.small_app import REF, Small, asking, behind, make_key

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 5}
PATH = "/v1/chat/completions"


async def figures(client: httpx.AsyncClient) -> Scrape:
    reply = await client.get("/metrics")
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/plain")
    return read(reply.text, 0.0)


def grown(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    return after.total(name, **labels) - before.total(name, **labels)


def test_requests_are_counted_by_key_path_and_status(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.sqlite")
    key_id, key = make_key(database, scopes=SCOPES)
    busy_id, busy = make_key(database, "busy", quotas={"requests_per_day": 1})

    async def work() -> None:
        small = Small()
        async with asking(await behind(small, database), key) as client:
            before = await figures(client)
            for _ in range(3):
                assert (await client.post(PATH, json=CHAT)).status_code == 200
            async with client.stream("POST", PATH, json=CHAT | {"stream": True}) as reply:
                await reply.aread()
            for expected in (200, 429, 429):
                headers = {"Authorization": f"Bearer {busy}"}
                assert (await client.post(PATH, json=CHAT, headers=headers)).status_code == expected
            assert (await client.post(PATH, json=CHAT | {"n": 99})).status_code == 400
            assert (await client.post(PATH, json=CHAT | {"fail": 503})).status_code == 503
            assert (await client.post(PATH, json=CHAT | {"crash": True})).status_code == 500
            assert (await client.post("/pause", json={})).status_code == 404
            forged = f"Bearer tk_{key_id}_{'x' * 43}"
            assert (await client.post(PATH, json=CHAT, headers={"Authorization": forged})).status_code == 401
            after = await figures(client)
        requests = {
            (sample.labels["key"], sample.labels["path"], sample.labels["status"]): count
            for sample in after.samples["trunkline_requests_total"]
            if (count := grown(before, after, "trunkline_requests_total", **sample.labels))
        }
        assert requests == {
            (key_id, PATH, "200"): 4,
            (busy_id, PATH, "200"): 1,
            (busy_id, PATH, "429"): 2,
            (key_id, PATH, "400"): 1,
            (key_id, PATH, "503"): 1,
            (key_id, PATH, "500"): 1,
            ("none", "other", "404"): 1,
            ("none", PATH, "401"): 1,  # the id was right, and the secret was not
            (key_id, "/metrics", "200"): 1,
        }
        assert grown(before, after, "trunkline_tokens_total", key=key_id, kind="prompt") == 4 * 2
        assert grown(before, after, "trunkline_tokens_total", key=key_id, kind="completion") == 4 * 5
        passed = 4 + 1 + 2 + 1  # what reached the application, and the other look at the figures
        assert grown(before, after, "trunkline_gateway_seconds_count") == passed
        assert after.total("trunkline_requests_open") == 0

    asyncio.run(work())


def test_a_client_that_leaves_is_counted_as_such(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.sqlite")
    key_id, key = make_key(database)

    async def work() -> None:
        small = Small()
        small.go.clear()
        app = await behind(small, database)
        scope = {
            "type": "http", "method": "POST", "path": PATH, "query_string": b"", "root_path": "", "http_version": "1.1",
            "headers": [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")],
        }  # fmt: skip
        gone = asyncio.Event()
        body = [{"type": "http.request", "body": b'{"model": "chat", "messages": [], "stream": true}'}]

        async def receive() -> Any:
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                gone.set()  # after the first word

        before = REGISTRY.get_sample_value("trunkline_requests_total", labels(key_id, "499")) or 0
        await app(scope, receive, send)
        assert REGISTRY.get_sample_value("trunkline_requests_total", labels(key_id, "499")) == before + 1
        await app.guard.close()  # type: ignore[attr-defined]

    def labels(key: str, status: str) -> dict[str, str]:
        return {"key": key, "path": PATH, "status": status}

    asyncio.run(work())


def test_no_key_is_in_the_figures(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.sqlite")
    _, key = make_key(database, scopes=SCOPES)

    async def work() -> str:
        async with asking(await behind(Small(), database), key) as client:
            await client.post(f"{PATH}/{key}", json=CHAT)
            await client.post(PATH, json=CHAT | {"model": key}, headers={"x-request-id": key})
            return (await client.get("/metrics")).text

    found, secret = asyncio.run(work()), parsed(key)
    assert secret is not None and secret[0] in found and secret[1] not in found


def test_only_so_many_keys_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "_keys", set())
    names = [counted.key_label(f"{number:012x}") for number in range(3 * counted.MOST_KEYS)]
    assert len(set(names)) == counted.MOST_KEYS + 1
    assert set(names[counted.MOST_KEYS :]) == {counted.OTHER}
    assert counted.key_label(names[0]) == names[0]


@pytest.mark.heavy
def test_labels_are_added_to_what_is_told_and_not_to_what_is_kept() -> None:
    before = [family.samples for family in REGISTRY.collect()]
    found = list(Labelled(REGISTRY, {"replica": "here"}).collect())
    assert all(sample.labels["replica"] == "here" for family in found for sample in family.samples)
    assert [[s.name for s in family.samples] for family in found] == [[s.name for s in each] for each in before]
    assert not any("replica" in s.labels for family in REGISTRY.collect() for s in family.samples)


def test_the_dashboards_own_metrics_are_told_without_keys_and_with_them(tmp_path: Path) -> None:
    """vLLM's are looked for at a running endpoint (test_watched_endpoint.py)."""
    database = str(tmp_path / "keys.sqlite")
    _, key = make_key(database, scopes=SCOPES)

    async def work() -> Scrape:
        small = Small()
        async with asking(await gateway(small.app, "chat", REF, EndpointSpec(model="m"), 0)) as client:
            assert (await client.post(PATH, json=CHAT)).status_code == 200
            assert (await figures(client)).total("trunkline_artifact", artifact=REF, endpoint="chat") == 1
        async with asking(await behind(small, database), key) as client:
            await client.post(PATH, json=CHAT)
            return await figures(client)

    told = asyncio.run(work())
    assert {name for name in dashboard.metrics() if name.startswith("trunkline")} <= set(told.samples)


def test_what_prometheus_is_given_asks_with_a_key_for_what_is_there() -> None:
    (job,) = yaml.safe_load((ROOT / "infra" / "prometheus" / "endpoints.yaml").read_text())["scrape_configs"]
    assert job["metrics_path"] in ROUTES and job["authorization"]["type"] == "Bearer"
    assert job["authorization"]["credentials_file"] and job["static_configs"][0]["targets"]
