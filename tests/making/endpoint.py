"""A small server that speaks OpenAI's API, and misbehaves as it is told to: what a real endpoint does on a bad day."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipelines.stages.generation.endpoint import ChatEndpoint

PROMPT_TOKENS, COMPLETION_TOKENS = 10, 5


@dataclass
class Reply:
    """What is sent back. `hang_seconds` before, `cut`: the connection ends in the middle of the body."""

    text: str | None = "yes"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    hang_seconds: float = 0.0
    cut: bool = False
    finish_reason: str = "stop"


@dataclass
class Server:
    """The running server: what it was asked, when, and how many at once at most."""

    url: str
    behave: Callable[[dict[str, Any], int], Reply]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def endpoint(self, **more: Any) -> ChatEndpoint:
        return ChatEndpoint(**{"url": self.url, "model": "writer", "max_completion_tokens": 20, **more})

    def answer(self, body: dict[str, Any], key: str) -> Reply:
        with self._lock:
            self.asked.append(body)
            self.keys.append(key)
            self.times.append(time.monotonic())
            number = len(self.asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self.behave(body, number)
            time.sleep(reply.hang_seconds)
            return reply
        finally:
            with self._lock:
                self._at_once -= 1


def completion(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "writer-2",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 15},
    }


@contextmanager
def serving(behave: Callable[[dict[str, Any], int], Reply]) -> Iterator[Server]:
    """A server that answers each request by `behave(body, number)`, numbers from 1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = server.answer(body, self.headers.get("Authorization", ""))
            sent = reply.body if reply.body is not None else completion(reply)
            data = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data[: len(data) // 2] if reply.cut else data)
            except OSError:
                pass  # the client did not wait
            if reply.cut:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_address[1]}/v1", behave)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def last(body: dict[str, Any]) -> str:
    """What was said last."""
    return str(body["messages"][-1]["content"])
