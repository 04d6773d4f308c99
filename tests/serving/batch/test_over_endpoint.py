"""`ctl batch` at an endpoint that is busy, fails, dies, or is left by a client that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.batch import asking
from serving.batch.over_endpoint import OverEndpoint
from serving.batch.run import run
from tests.cli.command import CTL, ctl
from tests.serving.running import running

LINES = 40


class Endpoint:
    """Answers with the prompt. `troubles`: what comes instead, first, to prompts. It holds requests beyond `free`."""

    def __init__(self, free: int = 10**6) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: list[str] = []
        self.troubles: dict[str, list[tuple[int, dict[str, str]]]] = {}
        self.free = free
        self.held = threading.Event()
        self.keys: set[str] = set()
        self.most_open = self.open = 0
        routes = [Route(f"/v1/{path}", self.answer, methods=["POST"]) for path in ("completions", "chat/completions")]
        self.app = Starlette(routes=routes)

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        prompt = body.get("prompt") or body["messages"][0]["content"]
        self.asked[prompt] += 1
        self.keys.add(request.headers.get("authorization", ""))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if sum(self.asked.values()) > self.free:
                self.held.set()
                while not await request.is_disconnected():
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0)
        finally:
            self.open -= 1
        if self.troubles.get(prompt):
            status, headers = self.troubles[prompt].pop(0)
            return JSONResponse({"error": {"message": f"no, {status}"}}, status, headers)
        self.answered.append(prompt)
        return JSONResponse({"choices": [{"text": prompt}]}, headers={"x-request-id": f"id-{prompt}"})


def write(file: Path, count: int = LINES) -> Path:
    rows = [
        {
            "custom_id": f"line-{number}", "method": "POST", "url": "/v1/completions",
            "body": {"model": "m", "prompt": f"prompt-{number}"},
        }
        for number in range(count)
    ]  # fmt: skip
    rows[1] |= {"url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "prompt-1"}]}}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def check(output: Path, count: int = LINES) -> None:
    """Each line once, in order, and with the answer to its own."""
    lines = read(output)
    assert [line["custom_id"] for line in lines] == [f"line-{number}" for number in range(count)]
    for number, line in enumerate(lines):
        assert line["error"] is None and line["response"]["status_code"] == 200
        assert line["response"]["body"]["choices"][0]["text"] == f"prompt-{number}"
        assert line["response"]["request_id"] == f"id-prompt-{number}"


def test_a_batch_that_is_killed_loses_no_line_and_has_none_twice(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    endpoint = Endpoint(free=17)
    with running(endpoint.app) as url:
        command = [str(CTL), "batch", str(source), str(output), "--endpoint", f"{url}/v1", "--concurrency", "3"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
        assert endpoint.held.wait(240)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert not output.exists()
        endpoint.free = 10**6
        kept = (tmp_path / "out.jsonl.partial").read_bytes().count(b"\n") - 1
        assert 0 < kept <= 17
        before = endpoint.asked.copy()
        done = ctl(*command[1:])
        assert done.returncode == 0, done.stderr
        assert "40 lines (200: 40)" in done.stdout
    check(output)
    assert sum((endpoint.asked - before).values()) == LINES - kept  # what was written is not asked again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_ctrl_c_ends_it_and_keeps_what_there_is(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    endpoint = Endpoint(free=9)
    with running(endpoint.app) as url:
        command = [str(CTL), "batch", str(source), str(output), "--endpoint", url]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        assert endpoint.held.wait(240)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Run the same command to resume" in said
    assert (tmp_path / "out.jsonl.partial").exists()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait between attempts but those that the endpoint asks for."""
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.0)


@pytest.mark.usefixtures("quick")
def test_what_is_busy_or_fails_is_asked_again(tmp_path: Path) -> None:
    endpoint = Endpoint()
    endpoint.troubles = {
        "prompt-2": [(429, {"retry-after-ms": "20"})] * 3,
        "prompt-3": [(503, {}), (500, {})],
        "prompt-4": [(500, {})] * 99,  # a poison request: its answer is that
        "prompt-5": [(400, {})],
        "prompt-6": [(429, {"x-should-retry": "false"})],
    }
    with running(endpoint.app) as url:
        outcome = run(
            write(tmp_path / "in"), tmp_path / "out", url, OverEndpoint(url, "tk_key", concurrency=4, attempts=5)
        )
    assert outcome.ends == {"200": LINES - 3, "500": 1, "400": 1, "429": 1}
    statuses = {line["custom_id"]: line["response"]["status_code"] for line in read(tmp_path / "out")}
    assert [statuses[f"line-{n}"] for n in (2, 3, 4, 5, 6)] == [200, 200, 500, 400, 429]
    assert [endpoint.asked[f"prompt-{n}"] for n in (2, 3, 4, 5, 6)] == [4, 3, 5, 1, 1]
    assert endpoint.keys == {"Bearer tk_key"} and endpoint.most_open <= 4


def test_a_key_that_is_refused_ends_the_batch(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    endpoint = Endpoint()
    endpoint.troubles = {"prompt-5": [(401, {})]}
    with running(endpoint.app) as url:
        command = ("batch", source, output, "--endpoint", url, "--concurrency", "1")
        refused = ctl(*command)
        assert refused.returncode == 5 and "refuses the key" in refused.stderr and "--key-file" in refused.stderr
        assert ctl(*command).returncode == 0
    check(output)
    assert endpoint.asked["prompt-4"] == 1 and endpoint.asked["prompt-5"] == 2


def test_commands_that_contradict_themselves(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl")
    neither = ctl("batch", source, tmp_path / "out.jsonl")
    assert neither.returncode == 2 and "--model" in neither.stderr
    gone = ctl("batch", source, tmp_path / "out.jsonl", "--endpoint", "http://127.0.0.1:9", "--attempts", "1")
    assert gone.returncode == 4 and "does not answer" in gone.stderr
    none = ctl("batch", tmp_path / "none", tmp_path / "out.jsonl", "--endpoint", "http://127.0.0.1:9")
    assert none.returncode == 3 and "No such file" in none.stderr
