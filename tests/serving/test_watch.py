"""What becomes of a replica whose engine is lost: found in time, its answers ended with a word, no process left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.core.provenance import PROJECT_ROOT
from tests.cluster.local_cluster import free_port

pytestmark = pytest.mark.timeout(120)


class Watched:
    """The process, and a client of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, port = folder, free_port()
        environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
        (folder / "token").touch()
        (folder / "turn").touch()
        command = [sys.executable, "-m", "tests.serving.watched", str(port)]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        while True:
            try:
                self.client.get("/health")
                return
            except httpx.ConnectError:
                assert self.process.poll() is None
                time.sleep(0.05)

    def stream(self, path: str = "/v1/completions", words: int = 9) -> Iterator[str]:
        """The lines of a stream, which waits behind its third word for ever."""
        asked = {"prompt": "a", "stream": True, "words": words}
        with self.client.stream("POST", path, json=asked) as reply:
            yield from (line for line in reply.iter_lines() if line)

    def times_asked(self) -> int:
        file = self.folder / "asked"
        return file.read_text().count("token") if file.exists() else 0

    def wait_until_asked(self, more: int) -> None:
        wanted = self.times_asked() + more
        while self.times_asked() < wanted:
            time.sleep(0.05)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found.client.close()
    if found.process.poll() is None:
        for process in (*psutil.Process(found.process.pid).children(), found.process):
            process.kill()
    found.process.communicate()


def ended(watched: Watched) -> None:
    """The process has ended by itself, and what it had started with it."""
    assert watched.process.wait(timeout=30) == 1
    with suppress(psutil.NoSuchProcess):  # an orphan may wait for somebody to take note
        assert psutil.Process(int((watched.folder / "child").read_text())).status() == psutil.STATUS_ZOMBIE


def told(lines: list[str]) -> Any:
    """The error of a stream's last event."""
    assert lines[-1] == "data: [DONE]" and '"text"' in lines[0]
    return json.loads(lines[-2].removeprefix("data: "))["error"]


@pytest.mark.heavy
@pytest.mark.parametrize("why", ["frozen", "dead"])
def test_a_lost_engine_ends_its_answers_and_its_process(watched: Watched, why: str) -> None:
    stream = watched.stream()
    lines = [next(stream) for _ in range(3)]
    if why == "dead":
        (watched.folder / "raises").touch()
    else:
        for name in ("token", "turn"):
            (watched.folder / name).unlink()
    lines += stream
    assert told(lines)["code"] == "engine_lost" and "ask again" in told(lines)["message"]
    assert "engine is dead" not in str(lines)  # the log's, not the client's
    ended(watched)
    assert watched.process.stderr and "the engine is lost" in watched.process.stderr.read()


@pytest.mark.heavy
def test_what_has_not_begun_is_told_to_come_again(watched: Watched) -> None:
    replies: list[httpx.Response] = []

    def whole() -> None:
        replies.append(watched.client.post("/tokenize", content=slow()))

    gone = threading.Event()

    def slow() -> Iterator[bytes]:
        yield b'{"prompt":'
        gone.wait()
        yield b' "x"}'

    asks = threading.Thread(target=whole)
    asks.start()
    stream = watched.stream()
    next(stream)
    (watched.folder / "raises").touch()
    list(stream)
    gone.set()
    asks.join()
    assert replies[0].status_code == 503 and int(replies[0].headers["retry-after"]) > 0
    assert replies[0].json()["error"]["code"] == "engine_lost"
    ended(watched)


@pytest.mark.heavy
def test_what_others_finish_is_whole_and_nothing_new_begins(watched: Watched) -> None:
    (watched.folder / "others").touch()
    stream = watched.stream(words=6)
    lines = [next(stream) for _ in range(3)]
    (watched.folder / "raises").touch()
    while (reply := watched.client.post("/v1/completions", json={"prompt": "a"})).status_code == 200:
        time.sleep(0.05)
    assert reply.status_code == 503 and reply.json()["error"]["code"] == "engine_lost"
    assert watched.process.poll() is None
    (watched.folder / "go").touch()
    lines += stream
    assert lines[-1] == "data: [DONE]" and len(lines) == 7 and "error" not in str(lines)
    ended(watched)


@pytest.mark.heavy
def test_an_engine_that_answers_between_two_steps_is_busy(watched: Watched) -> None:
    """Until it has given nobody a token for long."""
    (watched.folder / "token").unlink()
    watched.wait_until_asked(4)
    assert watched.process.poll() is None
    (watched.folder / "token").touch()
    watched.wait_until_asked(4)
    (watched.folder / "token").unlink()
    ended(watched)


@pytest.mark.heavy
def test_an_idle_engine_is_asked_for_a_token(watched: Watched) -> None:
    watched.wait_until_asked(3)
    assert watched.process.poll() is None
