"""Clients that do not mean well, over raw sockets: what they send reaches the application only as what is open."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from cluster.core.specs.endpoint import Limits
from serving.admission import Admission
from serving.asgi import again, nobody_leaves, post_scope
from serving.gateway import ROUTES, Gateway
from serving.models import names_model
from serving.pooling.routes import with_pooling
from tests.serving.running import running

REF = "model/tiny-0123456789ab"
BODY = b'{"model": "m", "prompt": "x"}'
SECONDS = 60.0


class Inner:
    """What stands behind the gateway: notes what it is given, and answers what is asked to wait when it may."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.begun, self.left = threading.Event(), threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
        self.seen.append((scope["method"], scope["path"], body))
        if b"wait" in body:
            self.begun.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return
        head = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"{}"})


class Open:
    """The gateway behind a socket."""

    def __init__(self, url: str, inner: Inner, gateway: Gateway) -> None:
        self.url, self.inner, self.gateway = url, inner, gateway
        self.address = (str(urlsplit(url).hostname), int(urlsplit(url).port or 0))

    def send(self, data: bytes) -> bytes:
        """All that comes for some bytes, until the connection is closed or quiet."""
        with socket.create_connection(self.address, SECONDS) as client:
            client.sendall(data)
            client.settimeout(2)
            found = b""
            try:
                while more := client.recv(1 << 16):
                    found += more
            except (TimeoutError, ConnectionResetError):
                pass
            return found


@pytest.fixture
def opened() -> Iterator[Open]:
    inner = Inner()
    gateway = Gateway(inner, REF, Limits(body_bytes=1000), None, Admission(2, 0))
    with running(gateway) as url:
        yield Open(url, inner, gateway)


def post(headers: bytes, body: bytes, path: bytes = b"/v1/completions") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + body


HIDDEN = b"POST /pause HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
SMUGGLED = {
    "two lengths": post(b"Content-Length: 29\r\nContent-Length: 4\r\n", BODY + HIDDEN),
    "length and chunks": post(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "chunks by another name": post(b"Transfer-Encoding: xchunked\r\nContent-Length: 29\r\n", BODY + HIDDEN),
    "a blank before the colon": post(b"Transfer-Encoding : chunked\r\nContent-Length: 29\r\n", BODY + HIDDEN),
    "a negative length": post(b"Content-Length: -1\r\n", BODY + HIDDEN),
    "a length with a sign": post(b"Content-Length: +29\r\n", BODY + HIDDEN),
    "a line in a header": post(b"X-Request-Id: a\r\n b\r\nContent-Length: 29\r\n", BODY),
    "a bare line feed": post(b"X: y\nContent-Length: 29\r\n", BODY + HIDDEN),
    "a null in a header": post(b"X: \x00\r\nContent-Length: 29\r\n", BODY),
}


@pytest.mark.parametrize("trick", SMUGGLED)
def test_a_request_within_another_does_not_pass(opened: Open, trick: str) -> None:
    """Refused, or read as the server reads it: what is hidden meets the gateway as a request of its own, or nobody."""
    opened.send(SMUGGLED[trick])
    assert {path for _, path, _ in opened.inner.seen} <= {"/v1/completions"}
    assert all(body in (BODY, b"") or HIDDEN not in body for _, _, body in opened.inner.seen)
    assert httpx.get(f"{opened.url}/health", timeout=SECONDS).status_code == 200


PATHS = (
    "/v1/models/../../pause", "/v1/../pause", "/v1/%2e%2e/pause", "//pause", "/./pause", "/pause/", "/%70ause",
    "/v1/completions/", "/v1//completions", "/v1/completions;x", "/v1/completions%00", "/v1/completions%2f..%2fpause",
    "/v1\\completions", "/V1/completions", "/v1/completions.json", "http://x/pause", "*", "/?/v1/completions",
    "/health/../pause", "/v1/completions%20", "/metrics/../../scale_elastic_ep", "/" + "a" * 4000,
)  # fmt: skip


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_no_path_leads_to_what_is_not_open(opened: Open, method: bytes) -> None:
    for path in PATHS:
        head = method + b" " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        opened.send(head + (b"Content-Length: 2\r\n\r\n{}" if method == b"POST" else b"\r\n"))
    for _, path, _ in opened.inner.seen:
        assert path in ROUTES or names_model(path)
        assert "pause" not in path or names_model(path)  # the name of a model, which only a list is searched for


def test_headers_of_a_request_do_not_become_those_of_the_answer(opened: Open) -> None:
    reply = opened.send(
        post(b"X-Request-Id: mine\r\nContent-Length: 29\r\nTrunkline-Artifact: forged\r\nConnection: close\r\n", BODY)
    )
    head = reply.split(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 200") and REF.encode() in head and b"forged" not in head
    assert head.count(b"x-request-id") == 1 and head.count(b"content-length") == 1


def test_a_body_that_does_not_come_takes_no_place(opened: Open) -> None:
    """Many begin one and wait: whoever asks meanwhile is answered."""
    slow = [socket.create_connection(opened.address, SECONDS) for _ in range(20)]
    try:
        for client in slow:
            client.sendall(post(b"Content-Length: 29\r\n", BODY[:5]))
        for _ in range(3):
            reply = httpx.post(f"{opened.url}/v1/completions", content=BODY, timeout=SECONDS)
            assert reply.status_code == 200
        assert opened.gateway.admission.begun == 0
    finally:
        for client in slow:
            client.close()
    assert len(opened.inner.seen) == 3


def test_a_body_without_end_is_refused_as_soon_as_it_is_too_long(opened: Open) -> None:
    chunk = b"64\r\n" + b" " * 100 + b"\r\n"
    reply = opened.send(post(b"Transfer-Encoding: chunked\r\nConnection: close\r\n", chunk * 11))  # no end
    assert reply.startswith(b"HTTP/1.1 413") and not opened.inner.seen
    told = opened.send(post(b"Content-Length: 52428800\r\nConnection: close\r\n", b"{"))
    assert told.startswith(b"HTTP/1.1 413") and not opened.inner.seen


def test_a_client_that_leaves_frees_its_place(opened: Open) -> None:
    body = b'{"model": "m", "prompt": "wait"}'
    clients = [socket.create_connection(opened.address, SECONDS) for _ in range(2)]
    for client in clients:
        client.sendall(post(b"Content-Length: " + str(len(body)).encode() + b"\r\n", body))
    deadline = time.monotonic() + SECONDS
    while opened.gateway.admission.begun < 2:
        assert time.monotonic() < deadline
        opened.inner.begun.wait(0.01)
    assert httpx.post(f"{opened.url}/v1/completions", content=BODY, timeout=SECONDS).status_code == 429
    for client in clients:
        client.close()
    assert opened.inner.left.wait(SECONDS)
    while opened.gateway.admission.begun:
        assert time.monotonic() < deadline
        opened.inner.begun.clear()
        opened.inner.begun.wait(0.01)
    assert httpx.post(f"{opened.url}/v1/completions", content=BODY, timeout=SECONDS).status_code == 200


def test_what_a_client_that_left_has_asked_of_a_pool_is_ended() -> None:
    """No more is computed for it, and nothing is answered."""

    class Endless:
        name, refusal = "m", ""
        cancelled = False

        async def answer(self, path: str, body: bytes) -> dict[str, Any]:
            try:
                await nobody_leaves()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            return {}

    async def work() -> None:
        pooler, sent = Endless(), list[Any]()

        async def left() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        app = with_pooling(nobody_leaves, "m", pooler)  # type: ignore[arg-type]
        await asyncio.wait_for(app(post_scope("/v1/score", []), again(b"{}", left), send), SECONDS)
        await asyncio.sleep(0)
        assert pooler.cancelled and not sent

    asyncio.run(work())
