"""All routes that vLLM's application has, asked without a key: none of them is there for whoever has none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec
from serving.gateway import ROUTES, gateway
from serving.models import names_model

pytestmark = pytest.mark.heavy

TASKS = ("generate", "embed", "classify", "score", "token_embed", "render")
DANGEROUS = {
    "/invocations",
    "/scale_elastic_ep",
    "/pause",
    "/sleep",
    "/collective_rpc",
    "/v1/load_lora_adapter",
    "/tokenize",
}


def routes_of_vllm(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Methods and paths, those that it opens for developers alone as well."""
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "m", "--enable-tokenizer-info-endpoint"])
    app: Any = build_app(parsed, TASKS)  # type: ignore[arg-type]
    return {
        (method, str(route.path)) for route in app.routes for method in (getattr(route, "methods", None) or {"GET"})
    }


def test_no_route_of_vllm_is_open_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = routes_of_vllm(monkeypatch)
    assert len(found) > 30 and {path for _, path in found} >= DANGEROUS, found
    reached: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def work() -> None:
        access = Access(keys=True, database=str(tmp_path / "keys.sqlite"))
        app: Any = await gateway(inner, "chat", "model/m", EndpointSpec(model="m", access=access, page=False), 100)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            for method, route in sorted(found):
                path = route.replace("{", "").replace("}", "")
                reply = await client.request(method, path, json=None if method in ("GET", "HEAD") else {})
                known = path in ROUTES or names_model(path)
                allowed = {401} if known else {404}
                assert reply.status_code in allowed | {405} or path == "/health", (method, path, reply.status_code)
        await app.guard.close()

    asyncio.run(work())
    assert set(reached) <= {"/health"}
