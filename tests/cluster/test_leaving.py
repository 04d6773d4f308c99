"""Before Ray ends in a pod its training workers save, and no other process is disturbed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control.leaving import leave

RANK = "ray::RayTrainWorker.execute"
SAVES = "import signal, sys; print('up', flush=True); signal.sigwait([signal.SIGTERM]); open('saved', 'w')"
STAYS = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


class Pod:
    """Processes under titles, as `/proc` would show them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, list[subprocess.Popen[str]]()
        self.processes = folder / "proc"
        self.processes.mkdir()

    def start(self, title: str, program: str) -> subprocess.Popen[str]:
        block = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); " * (program == SAVES)
        process = subprocess.Popen(
            [title, "-c", block + program],
            executable=sys.executable,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        assert process.stdout and process.stdout.readline() == "up\n"
        (self.processes / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        return process


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def test_training_workers_save_and_others_go_on(pod: Pod) -> None:
    rank, other = pod.start(RANK, SAVES), pod.start("ray::IDLE", SAVES)
    assert leave(60, pod.processes) == []
    assert (pod.folder / "saved").exists()
    assert rank.wait(60) == 0 and other.poll() is None


def test_one_that_does_not_end_is_waited_for_no_longer_than_said(pod: Pod) -> None:
    rank = pod.start(RANK, STAYS)
    assert leave(0.2, pod.processes) == [rank.pid]
    assert rank.poll() is None
