"""What is asked of a dashboard and what becomes of its answers, by stand-ins that answer as one does, or as nobody."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from cluster.control import dashboard, onray
from cluster.core.errors import JobError, NotReadyError


class Standing(BaseHTTPRequestHandler):
    """Keeps what it is asked, and answers what is laid out for a method and a path, else 404."""

    asked: ClassVar[list[tuple[str, str, dict[str, str], bytes]]]
    answers: ClassVar[dict[tuple[str, str], tuple[int, dict[str, str], bytes]]]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.command, self.path, dict(self.headers), body))
        status, headers, content = self.answers.get((self.command, self.path), (404, {}, b"nothing here"))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Two of them, each with its `url`, what it was asked, and what it answers."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary\n")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    made: list[Any] = []
    for _ in range(2):
        handler = type("Own", (Standing,), {"asked": [], "answers": {}})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=server.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        made.append((server, handler))
    yield [handler for _, handler in made]
    for server, _ in made:
        server.shutdown()
        server.server_close()


def test_the_token_goes_where_it_is_meant_for_and_nowhere_else(servers: list[Any]) -> None:
    one, other = servers
    one.answers["GET", "/api/version"] = 200, {}, b'{"ray_version": "2"}'
    one.answers["GET", "/api/jobs/"] = 302, {"Location": f"{other.url}/api/jobs/"}, b""
    assert dashboard.request("GET", one.url, "/api/version") == {"ray_version": "2"}
    assert one.asked[0][2]["Authorization"] == "Bearer canary"
    with pytest.raises(JobError, match="HTTP 302"):
        dashboard.request("GET", one.url, "/api/jobs/")
    assert other.asked == []


@pytest.mark.parametrize(
    ("status", "content", "error", "words"),
    [
        (401, b"", NotReadyError, "refuses the token"),
        (403, b"", NotReadyError, "refuses the token"),
        (500, b"Traceback\n  ...\nValueError: broken\n", NotReadyError, "does not work: ValueError: broken"),
        (400, b"Traceback\n  ...\nValueError: wrong\n", JobError, "HTTP 400: ValueError: wrong"),
        (200, b"<html>", NotReadyError, "is no Ray dashboard"),
    ],
)
def test_an_answer_that_is_none_is_one_sentence(
    servers: list[Any], status: int, content: bytes, error: type[Exception], words: str
) -> None:
    servers[0].answers["GET", "/x"] = status, {}, content
    with pytest.raises(error, match=words):
        dashboard.request("GET", servers[0].url, "/x")
    assert dashboard.request("GET", servers[0].url, "/absent") is None and not dashboard.exists(servers[0].url, "/y")


def test_nobody_is_waited_for_without_end(servers: list[Any]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections, and says nothing
        with pytest.raises(NotReadyError, match="no Ray dashboard answers"):
            dashboard.request("GET", f"http://127.0.0.1:{silent.getsockname()[1]}", "/", timeout_seconds=0.2)


def test_code_is_sent_once_and_a_job_asked_for(servers: list[Any], tmp_path: Path) -> None:
    one = servers[0]
    archive = tmp_path / "code.zip"
    archive.write_bytes(b"code")
    package = "/api/packages/gcs/_ray_pkg_e6fb06210fafc02fd7479ddbed2d042cc3a5155e.zip"
    one.answers["PUT", package] = 200, {}, b""
    one.answers["POST", "/api/jobs/"] = 200, {}, b'{"submission_id": "one"}'
    onray.submit(one.url, "one", "python x.py", archive, {"A": "1"}, {"m": "2"})
    one.answers["GET", package] = 200, {}, b""  # by now it is there
    onray.submit(one.url, "two", "ctl status", archive)
    onray.submit(one.url, "three", "ctl status")
    assert [(method, path) for method, path, _, _ in one.asked] == [
        ("GET", package), ("PUT", package), ("POST", "/api/jobs/"), ("GET", package), ("POST", "/api/jobs/"),
        ("POST", "/api/jobs/"),
    ]  # fmt: skip
    assert one.asked[1][3] == b"code"
    first, second, third = (json.loads(body) for method, _, _, body in one.asked if method == "POST")
    assert first == {
        "entrypoint": "python x.py",
        "submission_id": "one",
        "runtime_env": {"working_dir": f"gcs://{package.rpartition('/')[2]}", "env_vars": {"A": "1"}},
        "metadata": {"m": "2"},
    }
    assert second["runtime_env"]["working_dir"] == first["runtime_env"]["working_dir"]
    assert third["runtime_env"] == {"env_vars": {}}
