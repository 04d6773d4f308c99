"""Workers that are forked: each is what `python SCRIPT` would be, and none outlives what it belongs to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.control import forkserver

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

SCRIPT = """
import json, os, signal, sys
def main():
    print(json.dumps({
        "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgrp(), "arguments": sys.argv,
        "folder": os.getcwd(), "own": os.environ.get("CUDA_VISIBLE_DEVICES"), "shared": os.environ.get("SHARED"),
        "name": __name__, "path": sys.path[0], "there": "decimal" in sys.modules,
        "interrupted": signal.getsignal(signal.SIGINT) is not signal.SIG_IGN}), flush=True)
    how = sys.argv[-1]
    if how == "waits":
        signal.pause()
    if how == "raises":
        raise ValueError("no such thing")
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "forks":
        fork()
    sys.exit(int(how) if how.isdigit() else 0)
def fork():
    import colorsys
    from cluster.control.forkserver.children import Forked, can_fork
    assert can_fork()
    os.environ["LATER"] = "yes"
    child = Forked().Process(target=exec, args=(os.environ["CHILD"],))
    child.start()
    child.join()
    sys.exit(child.exitcode)
if __name__ == "__main__":
    main()
"""
CHILD = """
import json, os, sys
print(json.dumps({
    "parent": os.getppid(), "group": os.getpgrp(), "later": os.environ["LATER"],
    "imported": ["decimal" in sys.modules, "colorsys" in sys.modules]}), flush=True)
sys.exit(3)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def raylet() -> Iterator[subprocess.Popen[bytes]]:
    """What a server ends with."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def start(tmp_path: Path, raylet: subprocess.Popen[bytes]) -> Iterator[Start]:
    """Starts the script as Ray starts a worker; nothing is left afterwards."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    begun: list[subprocess.Popen[str]] = []

    def run(how: str = "0", **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", str(forkserver.CLIENT), str(script), f"--raylet-name={tmp_path}/raylet"]
        environment = {**os.environ, "RAY_RAYLET_PID": str(raylet.pid), forkserver.PRELOAD: "decimal", **variables}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        begun.append(subprocess.Popen([*command, how], env=environment, cwd=tmp_path, text=True, **streams))
        return begun[-1]

    yield run
    raylet.kill()
    for process in begun:
        process.wait()
    processes = psutil.process_iter(["cmdline"])
    servers = [each for each in processes if any(str(tmp_path) in word for word in each.info["cmdline"] or [])]
    assert not psutil.wait_procs(servers, timeout=60)[1]


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def test_it_is_what_python_would_be(start: Start, tmp_path: Path) -> None:
    first, second = start("waits", CUDA_VISIBLE_DEVICES="3"), start("waits", CUDA_VISIBLE_DEVICES="4")
    one, other = said(first), said(second)
    assert one["parent"] == other["parent"] and one["pid"] != other["pid"]  # of one server
    assert (one["own"], other["own"]) == ("3", "4") and one["shared"] is None
    assert one["arguments"] == [str(tmp_path / "script.py"), f"--raylet-name={tmp_path}/raylet", "waits"]
    assert one["folder"] == one["path"] == str(tmp_path) and one["name"] == "__main__"
    assert one["there"] and one["interrupted"] and one["group"] == one["pid"]
    third = start("0", SHARED="other")
    assert said(third)["parent"] != one["parent"]  # another environment is another server


@pytest.mark.parametrize(("how", "status"), [("0", 0), ("7", 7), ("raises", 1), ("dies", 128 + signal.SIGKILL)])
def test_it_ends_as_the_script_ends(start: Start, how: str, status: int) -> None:
    said(start("waits"))  # the first client waits for the server, too
    process = start(how)
    said(process)
    assert process.wait() == status
    assert process.stderr
    assert ("ValueError: no such thing" in process.stderr.read()) == (how == "raises")


def test_a_worker_forks_children_as_it_was_itself(start: Start) -> None:
    told = {"CHILD": CHILD, forkserver.CHILDREN: "1"}
    said(start("waits", **told))
    process = start("forks", **told)
    worker, child = said(process), said(process)
    assert child["imported"] == [True, False]  # by the server, and by the worker since
    assert child["later"] == "yes"
    assert child["group"] == worker["pid"]  # Ray ends a worker with its group
    assert process.wait() == 3
    gone(child["parent"])  # the copy that they were forked from ends with the worker


def test_a_signal_is_passed_on(start: Start) -> None:
    said(start("waits"))
    process = start("waits")
    said(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM


def gone(pid: int) -> None:
    """Wait until a process that is no child of this one has ended."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(60)


@pytest.mark.parametrize("killed", ["client", "server", "raylet"])
def test_a_worker_ends_with_its_client_its_server_and_its_raylet(
    start: Start, raylet: subprocess.Popen[bytes], killed: str
) -> None:
    keeper = start("waits")
    said(keeper)
    process = start("waits")
    worker = said(process)
    victims = {"client": process.pid, "server": worker["parent"], "raylet": raylet.pid}
    os.kill(victims[killed], signal.SIGKILL)
    gone(worker["pid"])
    process.wait()
    if killed == "client":
        assert keeper.poll() is None  # no other is touched
        assert said(start())["parent"] == worker["parent"]
    elif killed == "server":
        assert said(start())["parent"] != worker["parent"]  # the next one starts another server


def test_a_client_that_dies_while_it_asks_costs_nobody_else(start: Start, tmp_path: Path) -> None:
    worker = said(start("waits"))
    (place,) = (path for path in tmp_path.glob("fork_*") if path.is_socket())
    for said_so_far in (b"", b"\0", b"\0\0\0\x09{"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place))
            client.sendall(said_so_far)
    assert said(start())["parent"] == worker["parent"]


def test_without_a_server_the_worker_starts_by_itself(start: Start) -> None:
    process = start("5", RAY_RAYLET_PID="nothing")
    assert said(process)["there"] is False
    assert process.wait() == 5


@pytest.mark.parametrize(
    ("address", "switch", "forked"),
    [
        ("", "", True),
        ("127.0.0.1:6379", "", True),
        ("10.1.2.3:6379", "", False),
        ("10.1.2.3:6379", "1", True),
        ("", "0", False),
    ],
)
def test_only_where_the_cluster_is_this_machine(
    monkeypatch: pytest.MonkeyPatch, address: str, switch: str, forked: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv(forkserver.SWITCH, switch)
    found = forkserver.runtime_env({"A": "1"}, ["decimal"])
    assert ("py_executable" in found) == forked
    assert found["env_vars"] == ({"A": "1", forkserver.PRELOAD: "decimal"} if forked else {"A": "1"})
    assert "py_executable" not in forkserver.runtime_env({}, [])


@pytest.mark.heavy
def test_ray_starts_actors_by_it(ray_cluster: None) -> None:
    import ray

    class Probe:
        def look(self) -> tuple[int, int, bool]:
            return os.getpid(), os.getppid(), "decimal" in sys.modules

    def probe() -> Any:
        environment = forkserver.runtime_env({}, ["decimal"])
        return (
            ray.remote(Probe)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, runtime_env=environment)
            .remote()
        )

    actors = [probe() for _ in range(2)]
    (one, server, there), (other, same, _) = ray.get([actor.look.remote() for actor in actors])
    assert there and server == same and one != other
    os.kill(server, signal.SIGKILL)
    for pid in (one, other):
        gone(pid)
    again = ray.get([actor.look.remote() for actor in actors])  # restarted, by another server
    assert {each[1] for each in again}.isdisjoint({server})
    for actor in actors:
        ray.kill(actor)
