"""SIGTERM and SIGHUP from outside, at every moment of a run: exit code 130, one sentence, what is done is saved, and no
process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import psutil
import pytest

from cluster.core.metrics import STEP, read
from cluster.core.provenance import PROJECT_ROOT
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from tests.cluster.local_cluster import CTL
from tests.cluster.test_runtime import MARK, marked
from tests.training.tiny import make_tokens

pytestmark = pytest.mark.heavy

TRAINING = f"""
import sys
sys.path.insert(0, {str(PROJECT_ROOT)!r})
from cluster.pipeline import main, pipeline
from tests.training.tiny import pretrain

@pipeline
def endless(step):
    return step(pretrain(1_000_000), tokens="tokens/tiny")

if __name__ == "__main__":
    main(endless)
"""
MOMENTS = """
import sys, threading, time, psutil, os, signal
from cluster.control import runtime
from cluster.control.screen.console import guarded
from pipelines.specs import ScalingSpec

moment = sys.argv[1]

def kill_during():
    while not any(child.name() == "gcs_server" for child in psutil.Process().children()):
        pass
    os.kill(os.getpid(), signal.Signals[sys.argv[2]])

class Destroyed:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(600)  # the signal ends it

def work():
    if moment == "within a destructor":
        Destroyed()
        threading.Event().wait()
    if moment == "before":
        print("ready", flush=True)
        threading.Event().wait()
    if moment == "during":
        threading.Thread(target=kill_during, daemon=True).start()
    runtime.connect(ScalingSpec())
    print("ready", flush=True)
    threading.Event().wait()

sys.exit(guarded(work))
"""
SCALING = ("--set", "scaling.log_every=1", "--set", "scaling.checkpoint_every_seconds=10000")
PATIENCE_SECONDS = 240


def environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TRUNKLINE_"))}
    return {**kept, "HOME": str(home), "TRUNKLINE_STORE": str(home / "store"), MARK: str(home)}


def await_that(what: Callable[[], object], running: Callable[[], bool]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert running() and time.monotonic() < deadline
        pause.wait(0.2)


def nothing_runs(home: Path) -> None:
    psutil.wait_procs(marked(str(home)), timeout=PATIENCE_SECONDS)
    assert marked(str(home)) == []


def steps(home: Path) -> int:
    for folder in (home / "store").glob(".staging/pretrain-*"):
        if lines := read(Location(folder)):
            return int(lines[-1][STEP])
    return 0


def saved(home: Path) -> int:
    found = (home / "store").glob(".staging/pretrain-*/.train/checkpoints/step-*/*.part")
    return max((int(path.parent.name.split("-")[1]) for path in found), default=0)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    make_tokens(Store(tmp_path / "store"))
    (tmp_path / "endless.py").write_text(TRAINING)
    return tmp_path / "endless.py"


def check_end(code: int | None, said: str, name: str) -> None:
    assert code == 130, said
    assert f"ctl: stopped by {name}. Run the same command to resume." in said.splitlines()
    assert "Traceback" not in said


def test_a_script_that_trains_saves_first(script: Path) -> None:
    """At SIGTERM; a SIGHUP that `nohup` keeps away ends nothing, neither before nor while it saves."""
    process = subprocess.Popen(
        ["nohup", sys.executable, str(script), *SCALING],
        env=environment(script.parent),
        cwd=script.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    await_that(lambda: steps(script.parent) >= 5, lambda: process.poll() is None)
    process.send_signal(signal.SIGHUP)
    seen = steps(script.parent)
    await_that(lambda: steps(script.parent) > seen + 5, lambda: process.poll() is None)
    assert not saved(script.parent)
    process.send_signal(signal.SIGTERM)
    assert process.stdout and any("a checkpoint is written first" in line for line in process.stdout)
    process.send_signal(signal.SIGHUP)  # as a service manager sends both: the saving is not cut short
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    check_end(process.returncode, said, "SIGTERM")
    assert saved(script.parent) >= seen
    nothing_runs(script.parent)


@pytest.mark.exhaustive
def test_a_terminal_that_is_gone_ends_ctl_run_in_order(script: Path) -> None:
    """A dropped SSH session: SIGHUP to all processes of the terminal, and nothing can be printed any more."""
    child = pexpect.spawn(
        sys.executable, ["-c", CTL[2], "run", str(script), *SCALING], env=environment(script.parent), cwd=PROJECT_ROOT
    )
    await_that(lambda: steps(script.parent) >= 5, child.isalive)
    os.close(child.child_fd)
    await_that(lambda: not child.isalive(), lambda: True)
    child.closed = True
    assert child.exitstatus == 130
    assert saved(script.parent) >= 5
    nothing_runs(script.parent)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("before", signal.SIGHUP),
        ("during", signal.SIGTERM),
        ("after", signal.SIGHUP),
        ("within a destructor", signal.SIGTERM),
    ],
)
def test_around_the_start_of_ray(moment: str, number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MOMENTS, moment, number.name],
        env=environment(tmp_path),
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    if moment != "during":
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    check_end(process.returncode, said, number.name)
    nothing_runs(tmp_path)


def test_ctrl_c_of_a_command_is_told(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text("import threading\nprint('ready', flush=True)\nthreading.Event().wait()\n")
    process = subprocess.Popen(
        [*CTL, "plan", str(script)],
        env=environment(tmp_path),
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, said) == (130, "ctl: interrupted. Run the same command to resume.\n")


@pytest.mark.exhaustive
def test_a_sweep_ends_in_order(tmp_path: Path) -> None:
    script, log = Path(__file__).with_name("sweep_script.py"), tmp_path / "log"
    asked = ("--over", "toy.learning_rate=2.0,3.0", "--metric", "toy.loss", "--set", f"toy.log={log}")
    process = subprocess.Popen(
        [*CTL, "sweep", str(script), *asked, "--scheduler", "none"],
        env=environment(tmp_path),
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    await_that(lambda: log.exists() and log.read_text().count("begins") == 1, lambda: process.poll() is None)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, said
    assert "ctl: the sweep was interrupted. Run the same command to resume." in said.splitlines()
    assert log.read_text().count("ends") == 1
    nothing_runs(tmp_path)
