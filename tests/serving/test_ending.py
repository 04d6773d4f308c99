"""What a process has started ends with it, though it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import ROOT

PROGRAM = """
import multiprocessing, sys, time
from serving.ending import end_children_with_this
if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
    child.start()
    end_children_with_this()
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def start() -> tuple[subprocess.Popen[str], psutil.Process]:
    """A process, and the child that it has started."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


@pytest.mark.heavy
def test_a_child_ends_with_a_process_that_is_killed() -> None:
    process, child = start()
    others = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    gone, left = psutil.wait_procs([child, *others], timeout=60)
    assert child in gone and not left
