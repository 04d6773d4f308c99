"""Joining and starting Ray: bounded waits, plain errors, nothing left behind; each case in its own process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.control import runtime
from cluster.core.provenance import PROJECT_ROOT

pytestmark = pytest.mark.heavy

CONNECT = """
import sys
from cluster.control import runtime
from cluster.control.screen.console import guarded
from pipelines.specs import ScalingSpec
sys.exit(guarded(lambda: runtime.connect(ScalingSpec(num_workers=5))))
"""
ASK = """
import os, ray, threading
from cluster.control import runtime
from pipelines.specs import ScalingSpec
runtime.connect(ScalingSpec(num_workers=5))
runtime.connect(ScalingSpec())
@ray.remote
def environment():
    return os.environ["DS_ACCELERATOR"], os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"]
print(ray.cluster_resources()["CPU"], *ray.get(environment.remote()), flush=True)
threading.Event().wait()
"""
LINGER = """
import ray
from cluster.control import runtime
from pipelines.specs import ScalingSpec
runtime.connect(ScalingSpec())
@ray.remote
class Lingering:
    def end(self):
        import atexit, signal, threading
        atexit.register(threading.Event().wait)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ray.actor.exit_actor()
try:
    ray.get(Lingering.remote().end.remote())
except ray.exceptions.RayActorError:
    pass
"""
MARK = "TRUNKLINE_TEST_MARK"


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TRUNKLINE_"))}
    return {**kept, "HOME": str(home), **more}


def marked(value: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def connect(home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CONNECT],
        env=environment(home, **more),
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_private_cluster_dies_with_its_driver(tmp_path: Path) -> None:
    mark = str(tmp_path)
    driver = subprocess.Popen(
        [sys.executable, "-c", ASK],
        env=environment(tmp_path, **{MARK: mark}),
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    cpus, accelerator, override = driver.stdout.readline().split()
    assert float(cpus) >= 6  # five workers and one beside them, on however small a machine
    assert (accelerator, override) == ("cpu", "0")
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    running = [" ".join(process.cmdline()) for process in marked(mark)]
    assert len(running) > 3
    assert not [line for line in running if "dashboard/dashboard.py" in line or "monitor.py" in line]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    deadline = time.monotonic() + 240
    while (left := marked(mark)) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.5)
    assert left == []


def test_a_worker_that_hangs_in_its_end_does_not_outlive_the_run(tmp_path: Path) -> None:
    home, mark = environment(tmp_path, **{MARK: str(tmp_path)}), str(tmp_path)
    subprocess.run([sys.executable, "-c", LINGER], env=home, cwd=PROJECT_ROOT, timeout=120, check=True)
    # Ray's own helpers notice within seconds that their head is gone; the worker never would.
    left = marked(mark)
    psutil.wait_procs(left, timeout=120)
    assert marked(mark) == []


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose owner accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=server.accept, daemon=True).start()
        yield server.getsockname()[1]


def test_a_silent_head_is_given_up_soon(tmp_path: Path, silent_port: int) -> None:
    clock = time.monotonic()
    done = connect(tmp_path, RAY_ADDRESS=f"127.0.0.1:{silent_port}")
    assert done.returncode == 4
    assert "no Ray cluster answers" in done.stderr
    assert "ctl up" in done.stderr
    assert time.monotonic() - clock < runtime.PROBE_SECONDS + 20


def test_a_dashboard_is_not_a_head(tmp_path: Path) -> None:
    done = connect(tmp_path, RAY_ADDRESS="http://127.0.0.1:8265")
    assert done.returncode == 4
    assert "ctl submit" in done.stderr


def test_the_token_is_private_and_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "place" / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert not runtime.use_token(create=False)
    assert runtime.use_token(create=True)
    token = path.read_text()
    assert len(token) == 64
    assert path.stat().st_mode & 0o077 == 0
    runtime.use_token(create=True)
    assert path.read_text() == token
    assert [entry.name for entry in path.parent.iterdir()] == ["token"]


GONE = """
import ray
from cluster.control import runtime
from pipelines.specs import ScalingSpec
runtime.connect(ScalingSpec())
runtime.disconnect()
try:
    ray.put(1)
finally:
    assert not ray.is_initialized()
"""


def test_what_goes_on_after_the_end_joins_no_other_cluster(tmp_path: Path) -> None:
    """Ray by itself would start or join one, out of a thread that is still at work."""
    home = environment(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", GONE], env=home, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert "Ray has not been started yet" in done.stderr
    assert "AssertionError" not in done.stderr


DATA = """
from cluster.control import runtime
from cluster.core.specs.scaling import ScalingSpec

runtime.connect(ScalingSpec())
from pipelines.stages.ordered import ordered_map

print([row["twice"] for row in ordered_map(lambda item: {"twice": 2 * item["n"]}, [{"n": 1}, {"n": 2}], 2)])
"""


def test_ray_data_says_nothing_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DATA], env=environment(tmp_path), cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[2, 4]\n", "")


ERRORS = """
import sys
import ray
from ray._private.utils import publish_error_to_driver
from cluster.control import runtime
from cluster.core.specs.scaling import ScalingSpec
runtime.connect(ScalingSpec())
for text in (
    "Raylet is terminated. Termination is unexpected. Last 20 lines of the Raylet logs:\\n    [info] a line",
    "The node with node id: 48af and address: 192.0.2.2 and node name: box has been marked dead because\\n\\t(1) it",
    "something else\\nat length",
):
    publish_error_to_driver("any", text, gcs_client=ray._private.worker.global_worker.gcs_client)
sys.stdin.read()
"""


def test_what_the_cluster_tells_of_its_errors_takes_a_line_each(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", ERRORS],
        env=environment(tmp_path),
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert driver.stdout is not None
    said = [driver.stdout.readline() for _ in range(2)]
    rest, _ = driver.communicate()
    assert [*said, rest] == ["a node of the cluster was lost: 192.0.2.2\n", "Ray: something else\n", ""]
