"""Reading a log bit by bit, from what Ray's agents are (aiohttp's static files), and from a dashboard that sends all.

What a cluster really does is in test_jobs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from cluster.control.joblog import JobLog
from cluster.core.errors import NotReadyError

WORD = "Straße 文字\n".encode()
PARTS = (
    b"caf\xe9\n",  # Latin-1
    WORD[:5],  # half of a character, and the rest
    WORD[5:],
    b"NUL \0 inside\n10 %\r20 %\r\n",
    b"x" * 5_000_000,  # a line longer than a WebSocket's message may be
    b"\ncut \xe6\x96",
)
TEXT = "caf\ufffd\nStraße 文字\nNUL \0 inside\n10 %\r20 %\r\n" + "x" * 5_000_000 + "\ncut \ufffd"


@dataclass
class Node:
    """A node's agent and a dashboard on one port; `whole` counts what the dashboard was asked for."""

    folder: Path
    port: int = 0
    whole: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "job-driver-mine.log"

    def write(self, data: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(data)

    async def file(self, request: web.Request) -> web.StreamResponse:
        self.whole.append(request.query["node_id"])
        if not self.log.exists():
            return web.Response(status=500, text=f"A file is not found at: {self.log}")
        return web.Response(body=self.log.read_bytes())

    async def serve(self, started: threading.Event) -> None:
        application = web.Application()
        application.router.add_static("/logs", self.folder, show_index=True)
        application.router.add_get("/api/v0/logs/file", self.file)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await asyncio.Event().wait()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made, started = Node(tmp_path), threading.Event()
    threading.Thread(target=lambda: asyncio.run(made.serve(started)), daemon=True).start()
    assert started.wait(60)
    yield made


def read(node: Node, log: JobLog) -> str:
    """The log as a follower sees it, which looks after each part, and once more when nothing is new."""
    agent, text = f"http://127.0.0.1:{node.port}", ""
    assert not list(log.new(None, None)) and not list(log.new(agent, "n1"))  # it has not begun
    for part in (b"", *PARTS, b""):
        node.write(part)
        text += "".join(log.new(agent, "n1"))
    return text + log.rest()


def test_from_the_agent_each_byte_comes_once(node: Node) -> None:
    log = JobLog(f"http://127.0.0.1:{node.port}", "mine", within=True)
    assert read(node, log) == TEXT
    assert node.whole == ["n1"]  # only before there was a file


def test_through_a_port_forward_the_token_goes_to_the_dashboard_alone(node: Node) -> None:
    log = JobLog(f"http://localhost:{node.port}", "mine", within=False)
    assert read(node, log) == TEXT
    assert len(node.whole) == len(PARTS) + 3
    assert 0.5 <= log.pause_seconds <= 30


def test_an_agent_that_is_gone_is_told(node: Node) -> None:
    log = JobLog(f"http://127.0.0.1:{node.port}", "mine", within=True)
    node.write(b"begun\n")
    assert "".join(log.new(f"http://127.0.0.1:{node.port}", "n1")) == "begun\n"
    with pytest.raises(NotReadyError, match="does not answer"):
        list(log.new("http://127.0.0.1:9", "n1"))
