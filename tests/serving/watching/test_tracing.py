"""Traces as a collector gets them: a request's span within its client's, and what is asked further within that."""

from __future__ import annotations

import asyncio

import pytest

from cluster.core.specs.endpoint import EndpointSpec
from serving import tracing
from serving.gateway import gateway
from tests.serving.keys.small_app import REF, Small, asking
from tests.serving.watching.collector import Collector, attributes

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "stream": True}
NAMES = (tracing.ENDPOINT, tracing.TRACES_ENDPOINT, tracing.PROTOCOL, tracing.TRACES_PROTOCOL, *tracing.PASSED)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_the_environment_says_where_traces_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracing.environment() == {}
    monkeypatch.setenv(tracing.ENDPOINT, "http://collector:4318/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chat")
    assert tracing.environment() == {
        tracing.TRACES_ENDPOINT: "http://collector:4318/v1/traces",
        tracing.TRACES_PROTOCOL: "http/protobuf",
        "OTEL_SERVICE_NAME": "chat",
    }
    monkeypatch.setenv(tracing.PROTOCOL, "grpc")
    assert tracing.collector() == "http://collector:4318"
    monkeypatch.setenv(tracing.TRACES_ENDPOINT, "http://other:1/x")
    assert tracing.collector() == "http://other:1/x"


@pytest.mark.timeout(120)
def test_a_request_is_a_span_and_its_context_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(small: Small) -> None:
        app = await gateway(small.app, "chat", REF, EndpointSpec(model="m"), 0)
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "mine"}
        async with asking(app) as client:
            assert (await client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200
            assert (await client.post("/v1/chat/completions", json={**CHAT, "n": 99})).status_code == 400
            assert (await client.get("/secrets/of/mine")).status_code == 404

    small = Small()
    with Collector() as collector:
        monkeypatch.setenv(tracing.ENDPOINT, collector.url)
        asyncio.run(run(small))
        tracing.provider().force_flush()
        first, second = collector.wait_for("POST /v1/chat/completions", 2)
        (unknown,) = collector.wait_for("GET other")
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, SPAN)
    assert second.trace_id.hex() != TRACE and not second.parent_span_id
    told = attributes(first)
    assert told["http.response.status_code"] == 200 and told["trunkline.artifact"] == REF
    assert told["trunkline.request_id"] == "mine" and [event.name for event in first.events]
    assert attributes(second)["http.response.status_code"] == 400 and "secrets" not in str(unknown)
    ((passed, _),) = small.seen
    assert passed["traceparent"] == f"00-{TRACE}-{first.span_id.hex()}-01"
    assert first.end_time_unix_nano > first.start_time_unix_nano
