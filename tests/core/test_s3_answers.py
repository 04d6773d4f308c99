"""Exclusive creation on object stores that answer otherwise than Amazon does, and on a real one where there is one."""

from __future__ import annotations

import http.server
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import ClassVar

import pytest

from cluster.core.build import build
from cluster.core.storage.gc import collect
from cluster.core.storage.location import CREATE_TRIES, Location
from cluster.core.storage.store import Store, problems
from tests.conftest import ROOT
from tests.core.conftest import on_ceph
from tests.core.toys import CountSpec, WordsSpec

pytestmark = pytest.mark.heavy

ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code>{}<RequestId>tx1</RequestId></Error>'
AMAZON = "<Message>At least one of the pre-conditions did not hold</Message><Condition>If-None-Match</Condition>"


class Answering(http.server.BaseHTTPRequestHandler):
    """As much of S3 as exclusive creation takes: PUT with If-None-Match."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}
    conflicts: ClassVar[int] = 0  # to answer with before the next creation is looked at
    detail: ClassVar[str] = ""  # of the answer to a lost race
    status: ClassVar[int] = 412  # of the same

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        here = type(self)
        if here.conflicts:
            here.conflicts -= 1
            self._answer(409, ERROR.format("ConditionalRequestConflict", ""))
        elif self.headers.get("If-None-Match") == "*" and self.path in here.objects:
            self._answer(here.status, ERROR.format("PreconditionFailed", here.detail))
        else:
            here.objects[self.path] = body
            self._answer(200, "")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/xml")
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answering]]:
    import s3fs

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Answering,), {"objects": {}}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield server.RequestHandlerClass  # type: ignore[misc]
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("detail", [AMAZON, "", "<BucketName>lab</BucketName>"])
def test_a_race_is_lost_however_the_store_words_it(answering: type[Answering], detail: str) -> None:
    answering.detail = detail
    place = Location("s3://lab/leases")
    assert place.create("1.json", b"first")
    assert not place.create("1.json", b"second")
    assert list(answering.objects.values()) == [b"first"]


def test_a_conflict_means_to_ask_again(answering: type[Answering]) -> None:
    place = Location("s3://lab/leases")
    answering.conflicts = 2
    assert place.create("1.json", b"first")
    answering.conflicts = 2
    assert not place.create("1.json", b"second")
    assert list(answering.objects.values()) == [b"first"]


def test_a_conflict_without_end_and_any_other_refusal_are_errors(
    answering: type[Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.core.storage.location.CREATE_PAUSE_SECONDS", 0.0)
    place = Location("s3://lab/leases")
    answering.conflicts = CREATE_TRIES
    with pytest.raises(OSError, match="ConditionalRequestConflict"):
        place.create("1.json", b"first")
    assert place.create("1.json", b"first")
    answering.status = 403
    with pytest.raises(OSError, match=r"PreconditionFailed|Errno"):
        place.create("1.json", b"second")


# -- a real one ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ceph(ceph_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket in Ceph's object gateway."""
    with on_ceph(ceph_environment, monkeypatch) as url:
        yield url


def _race(url: str, start: Event, rounds: int, wins: multiprocessing.Queue) -> None:
    place = Location(url)
    place.exists()
    start.wait()
    wins.put(sum(place.create(f"{number}.json", os.urandom(8)) for number in range(rounds)))


def test_of_many_at_once_on_a_real_s3_one_wins(ceph: str) -> None:
    context, rounds = multiprocessing.get_context("spawn"), 20
    start, wins = context.Event(), context.Queue()
    racers = [context.Process(target=_race, args=(f"{ceph}/race", start, rounds, wins)) for _ in range(4)]
    for racer in racers:
        racer.start()
    start.set()
    assert sum(wins.get(timeout=480) for _ in racers) == rounds
    for racer in racers:
        racer.join()


SCRIPT = """
import sys
from cluster.pipeline import main, pipeline
from tests.core.conftest import on_ceph
from tests.core.toys import CountSpec, WordsSpec

@pipeline
def toy(step):
    return step(CountSpec(), words=step(WordsSpec(words=tuple("abcdefgh"))))

if __name__ == "__main__":
    main(toy)
"""


def test_of_two_runs_at_once_on_a_real_s3_one_builds(ceph: str, tmp_path: Path) -> None:
    script, log = tmp_path / "toy.py", tmp_path / "log"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), "--store", f"{ceph}/store", "--set", f"words.log={log}"]
    runs = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]  # fmt: skip
    outputs = [run.communicate(timeout=480)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], outputs
    assert log.read_text().split() == list("abcdefgh")
    store = Store(f"{ceph}/store")
    assert [problems(artifact) for artifact in store.list()] == [[], []]


def test_building_and_collecting_on_a_real_s3(ceph: str) -> None:
    store = Store(f"{ceph}/collected")
    words = build(WordsSpec(), {}, store=store, name="toy")
    build(CountSpec(), {"words": words}, store=store, name="toy")
    store.staging("words", "toy", "f" * 64).write_bytes("half.txt", b"x")
    assert len(collect(store, 30, dry_run=False)) == 0
    assert len(collect(store, -1, dry_run=False)) == 3  # whatever the clocks of the two say
    assert [name for name in store.root.walk() if not name.startswith(".leases/")] == []
