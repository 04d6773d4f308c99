"""What is left of nodes that lost their head or their raylet, told by real processes that are no Ray; and folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import psutil
import pytest

from cluster.control import local, nodes, runtime
from cluster.control.clusters.address import AtAddress
from cluster.control.clusters.here import Here
from cluster.control.nodes import MARK, Node
from cluster.core.clusters.kinds import Address
from cluster.core.clusters.meant import Meant
from cluster.core.errors import NotReadyError
from tests.cluster.local_cluster import free_port
from tests.conftest import ROOT

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node that has joined a head which is not there any more."""
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path / "home"))
    address = f"127.0.0.1:{free_port()}"
    node = Node(id=os.urandom(8).hex(), role="worker", address=address, folder=runtime.private_folder())
    nodes.save([node])
    yield node
    shutil.rmtree(node.folder, ignore_errors=True)


@pytest.fixture
def start(joined: Node, tmp_path: Path) -> Iterator[Start]:
    """Starts a process of the node, of any name."""
    with ExitStack() as ends:

        def run(name: str) -> subprocess.Popen[bytes]:
            program = tmp_path / name
            shutil.copy("/bin/sleep", program)
            process = subprocess.Popen([program, "1000"], env={**os.environ, MARK: joined.id})
            ends.callback(process.wait)
            ends.callback(process.kill)
            return process

        yield run


def test_a_folder_of_ray_is_its_owners_alone(joined: Node) -> None:
    state = os.lstat(joined.folder)
    assert state.st_uid == os.getuid() and state.st_mode & 0o777 == 0o700
    assert len(joined.folder + "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store") < 104
    nodes.stop(joined)
    assert not os.path.exists(joined.folder), "with the code of jobs"


# `ray start --address=...`, as far as a node's processes go: a raylet, which is told apart by its name and its mark. It
# is there when the command has ended.
RAY = """#!/bin/sh
echo "$@" >> {folder}/joined
setsid {folder}/raylet 1000 >/dev/null 2>&1 &
until [ "$(cat /proc/$!/comm)" = raylet ]; do sleep 0.01; done
"""


def test_a_node_whose_raylet_ended_ends_its_workers_and_joins_again(
    joined: Node, start: Start, tmp_path: Path, served: str
) -> None:
    """The head is gone, then there; Ray's own part is played: test_two_machines.py has the real one."""
    raylet, worker = start("raylet"), start("worker")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    ray = python.with_name("ray")
    ray.write_text(RAY.format(folder=tmp_path))
    ray.chmod(0o755)
    nodes.save([msgspec.structs.replace(joined, num_cpus=3)])
    watch = subprocess.Popen(
        [str(python), "-c", "from cluster.control.watch import main; main()", joined.id],
        env={**os.environ, MARK: joined.id, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        stdout=subprocess.PIPE,
        text=True,
    )
    with watch:
        assert watch.stdout
        raylet.kill()
        raylet.wait()
        worker.wait(timeout=240)
        assert "has ended" in watch.stdout.readline()
        assert not (tmp_path / "joined").exists() and [node.id for node in nodes.nodes()] == [joined.id]
        nodes.save([msgspec.structs.replace(joined, num_cpus=3, address=served.removeprefix("http://"))])
        assert "again" in watch.stdout.readline()
        (again,) = nodes.nodes()
        assert again.id == joined.id and again.folder != joined.folder
        asked = (tmp_path / "joined").read_text()
        assert f"--address={again.address}" in asked and f"--temp-dir={again.folder}" in asked
        assert "--num-cpus=3" in asked
        assert len(nodes.raylets(again)) == 1
        assert nodes.stop(again) == 2, "the raylet, and who watches it"
        watch.wait(timeout=240)
    assert nodes.nodes() == [] and not os.path.exists(again.folder)


def test_joining_anew_ends_what_a_lost_head_left(joined: Node, start: Start) -> None:
    start("raylet")
    worker = start("worker")
    local.clean_up()
    assert worker.poll() is not None and nodes.nodes() == []


def test_a_node_that_works_stays(joined: Node, start: Start, served: str) -> None:
    nodes.save([Node(id=joined.id, role="worker", address=served.removeprefix("http://"))])
    raylet = start("raylet")
    local.clean_up()
    assert raylet.poll() is None and psutil.pid_exists(raylet.pid)
    with pytest.raises(NotReadyError, match="is a node of the cluster at"):
        local.start_head(port=free_port(), dashboard_port=free_port())


@pytest.fixture
def served() -> Iterator[str]:
    """The URL of something that says that it is the dashboard of a session called `mine`."""

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"session_name": "mine"}')

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_head_without_its_raylet_is_no_cluster(
    joined: Node, start: Start, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its GCS and its dashboard answer still, and what is submitted would wait for ever (cases/control 9)."""
    monkeypatch.setattr(runtime, "answers", lambda address: True)
    head = Node(id=joined.id, role="head", address=served.removeprefix("http://"), dashboard=served)
    nodes.save([head])
    start("gcs_server")
    here, told = Here(Meant()), list[str]()
    for asked in (here.dashboard_url, lambda: here.up(told.append)):
        with pytest.raises(NotReadyError, match=r"has lost its raylet.*`ctl down`, then `ctl up`"):
            asked()
    start("raylet")
    assert here.dashboard_url() == served
    here.up(told.append)
    assert told == [f"Already running: head {head.address}, dashboard {served}."]


def test_a_dashboard_of_another_cluster_is_refused(served: str) -> None:
    """`127.0.0.1`, as another machine's head publishes it, leads to the cluster of this one."""
    at = AtAddress(Meant(Address(address="head:6379")))
    at._check_same(served, "mine")
    with pytest.raises(NotReadyError, match="is not the dashboard of the head at head:6379"):
        at._check_same(served, "of another")
    with pytest.raises(NotReadyError, match=r"is not reached at .* from here"):
        at._check_same(f"http://127.0.0.1:{free_port()}", "mine")
