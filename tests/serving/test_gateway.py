"""What the gateway lets through to an application, and what it answers itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from cluster.core.specs.endpoint import EndpointSpec, Limits
from serving.gateway import ROUTES, Gateway, gateway
from serving.limits import Refused, check, states

REF = "model/tiny-0123456789ab"


async def echo(request: Request) -> JSONResponse:
    """What arrives, of every path."""
    return JSONResponse({"path": request.url.path, "body": (await request.body()).decode()})


def client(limits: Limits | None = None) -> TestClient:
    everything = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST", "PUT", "DELETE"])])
    return TestClient(Gateway(everything, REF, limits or Limits()))


CLOSED = ("/", "/docs", "/redoc", "/invocations", "/scale_elastic_ep", "/classify", "/v1/model/x",
          "/pause", "/reset_prefix_cache", "/v1//models", "/v1/models/", "/V1/models", "/v1/../pause")  # fmt: skip


@pytest.mark.parametrize("path", CLOSED)
def test_a_route_that_is_not_named_is_not_there(path: str) -> None:
    for method in ("GET", "POST"):
        reply = client().request(method, f"http://testserver{path}", content=b"{}")
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_what_is_named_reaches_the_application_unchanged() -> None:
    body = json.dumps({"prompt": "Straße 文字", "n": 2}, ensure_ascii=False)
    for path, method in ROUTES.items():
        reply = client().request(method, path, content=body if method == "POST" else None)
        assert reply.json() == {"path": path, "body": body if method == "POST" else ""}
        assert reply.headers["trunkline-artifact"] == REF
        wrong = client().request("DELETE", path)
        assert wrong.status_code == 405 and method in wrong.json()["error"]["message"]


def test_below_a_prefix_the_paths_are_the_same() -> None:
    everything = Starlette(routes=[Route("/{path:path}", echo, methods=["GET"])])
    mounted = TestClient(Starlette(routes=[Mount("/soft", Gateway(everything, REF, Limits()))]))
    assert mounted.get("/soft/v1/models").status_code == 200
    assert mounted.get("/soft/soft/v1/models").status_code == 404
    assert mounted.get("/soft/pause").status_code == 404


def test_a_websocket_is_closed() -> None:
    with pytest.raises(WebSocketDisconnect) as closed, client().websocket_connect("/v1/realtime"):
        pass
    assert closed.value.code == 1008


def test_every_answer_has_an_id() -> None:
    given = client().get("/health", headers={"x-request-id": "mine"})
    assert given.headers.get_list("x-request-id") == ["mine"]
    first, second = (client().get("/pause").headers["x-request-id"] for _ in range(2))
    assert len(first) == 32 and first != second


BEYOND: dict[str, dict[str, Any]] = {
    "n": {"n": 16_384},
    "best_of": {"best_of": 17},
    "top_logprobs": {"top_logprobs": 21},
    "logprobs": {"logprobs": 1e9},
    "stop_token_ids": {"stop_token_ids": list(range(65))},
    "logit_bias": {"logit_bias": {str(n): 1 for n in range(65)}},
    "prompt": {"prompt": ["x"] * 257},
    "regex": {"structured_outputs": {"regex": "(a{999}){999}"}},
    "pattern": {"response_format": {"json_schema": {"schema": {"pattern": "(((a+){99}){99}){99}"}}}},
    "response_format": {"response_format": {"json_schema": {"schema": {"const": "ab" * 40_000}}}},
    "structured_outputs": {"structured_outputs": {"grammar": "root ::= " + " ".join(f'("{n}")?' for n in range(9999))}},
    "text": {"text": {"format": {"type": "json_schema", "schema": {"enum": [f"{n}" * 9 for n in range(5000)]}}}},
    "tools": {"tool_choice": "required", "tools": [{"function": {"parameters": {"const": "x" * 70_000}}}]},
}


@pytest.mark.parametrize("param", BEYOND)
def test_what_asks_for_too_much_is_refused_by_name(param: str) -> None:
    reply = client().post("/v1/completions", json={"model": "x", **BEYOND[param]})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert "endpoint.limits." in reply.json()["error"]["message"]


URL = "http://169.254.169.254/latest/meta-data"
NOT_TAKEN: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": URL}]}]},
    {"messages": [{"role": "user", "content": [{"image_url": URL}]}]},
    {"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "HTTPS://inner/x"}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "file:///etc/passwd"}}]}]},
    {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": f" {URL}"}]}]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": URL}]}]},
    {"messages": [], "chat_template": "{% for a in range(10**9) %}{% endfor %}"},
    {"messages": [], "chat_template_kwargs": {"chat_template": "{{ 'x' * 10**9 }}"}},
    {"prompt_embeds": "gASVAAAA"},
    {"prompt": "x", "prompt_embeds": ["gASVAAAA"]},
    {"messages": [{"role": "user", "content": [{"type": "image_embeds", "image_embeds": "gASVAAAA"}]}]},
]


@pytest.mark.parametrize("asked", NOT_TAKEN, ids=lambda asked: next(iter(asked)))
def test_nothing_is_fetched_run_or_unpickled_for_a_client(asked: dict[str, Any]) -> None:
    """A redirect is no way either: the first URL is not asked."""
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/pooling", "/tokenize"):
        reply = client().post(path, json={"model": "x", **asked})
        assert reply.status_code == 400 and reply.json()["error"]["param"], reply.text


def test_what_only_looks_like_it_passes() -> None:
    drawn = {"image_url": {"url": "data:image/png;base64,AAAA"}}
    schema = {"properties": {"image_url": {"type": "string"}, "chat_template": {"type": "string"}}}
    tools = [{"function": {"name": "f", "description": "d" * 100_000, "parameters": schema}}]
    for asked in (
        {"messages": [{"role": "user", "content": [{"type": "image_url", **drawn}]}], "chat_template": None},
        {"messages": [], "tools": tools, "tool_choice": "auto", "chat_template_kwargs": {"enable_thinking": False}},
        {"input": "http://x", "metadata": {"callback_url": "http://x"}},
    ):
        assert client().post("/v1/chat/completions", json=asked).status_code == 200


def test_a_limit_that_is_raised_lets_through() -> None:
    raised = Limits(completions=20_000, pattern_states=2_000_000)
    assert client(raised).post("/v1/completions", json=BEYOND["n"] | BEYOND["regex"]).status_code == 200


@pytest.mark.parametrize("regex", ["(", "[z-a]", "a{2,1}", "*"])
def test_a_pattern_that_is_none_is_the_clients_mistake(regex: str) -> None:
    reply = client().post("/v1/chat/completions", json={"structured_outputs": {"regex": regex}})
    assert reply.status_code == 400 and "no regular expression" in reply.json()["error"]["message"]


@pytest.mark.parametrize(("pattern", "about"), [("abc", 3), ("a{50}", 50), ("(ab|c){3}", 12), ("(a{30}){30}", 930)])
def test_states_grow_with_repeats(pattern: str, about: int) -> None:
    from re import _parser  # type: ignore[attr-defined]

    assert about <= states(_parser.parse(pattern)) <= 3 * about


def test_bodies_that_are_no_json_object() -> None:
    for body in (b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000):
        reply = client().post("/v1/completions", content=body)
        assert reply.status_code == 400, body[:9]
    deep: Any = {}
    for _ in range(40):
        deep = {"properties": {"x": deep}}
    with pytest.raises(Refused, match="nested more than 32 deep"):
        check(msgspec.json.encode({"response_format": deep}), Limits())


def test_a_body_that_is_too_long_is_not_read_to_its_end() -> None:
    limits = Limits(body_bytes=1000)
    assert client(limits).post("/v1/completions", content=b" " * 998 + b"{}").status_code == 200
    assert client(limits).post("/v1/completions", content=b" " * 999 + b"{}").status_code == 413
    pieces = (b" " * 100 for _ in range(1000))  # of a length that no header tells
    assert client(limits).post("/v1/completions", content=pieces).status_code == 413


def test_a_model_is_told_of_alone() -> None:
    async def listed(request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": "chat"}, {"id": "org/name"}]})

    app = asyncio.run(gateway(Starlette(routes=[Route("/v1/models", listed)]), "chat", REF, EndpointSpec(model="m"), 0))
    asked = TestClient(Starlette(routes=[Mount("/below", app), Mount("/", app)]))
    for path, status in (("chat", 200), ("org/name", 200), ("org%2Fname", 200), ("other", 404), ("x/../chat", 200)):
        for root in ("", "/below"):
            reply = asked.get(f"{root}/v1/models/{path}")
            assert reply.status_code == status, (root, path, reply.text)
    assert asked.get("/v1/models/chat").json() == {"id": "chat"}
    assert asked.get("/v1/models/").status_code == 404 and asked.post("/v1/models/chat").status_code == 405
    document = asked.get("/openapi.json").json()
    assert set(document["paths"]) == {*ROUTES, "/v1/models/{id}"}
