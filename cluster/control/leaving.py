"""What a pod does before Ray ends in it: its training workers finish their step, save, and end by themselves.

`ray stop` ends the raylet first, and the workers with it, in the middle of a step. Seen from within the pod: all of its
processes and no others are in `/proc`.

    python -m cluster.control.leaving SECONDS
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TITLE = b"ray::RayTrainWorker"  # how Ray calls their processes
LOOK_SECONDS = 0.1


def training_workers(processes: Path) -> Iterator[int]:
    """The pids of the training workers among processes as `/proc` shows them."""
    for process in processes.glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if title.startswith(TITLE):
            yield int(process.name)


def leave(seconds: float, processes: Path = Path("/proc")) -> list[int]:
    """Ask the training workers here to save and end (SIGTERM), and wait for them so long at most; who is left."""
    for pid in training_workers(processes):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while (left := list(training_workers(processes))) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return left


if __name__ == "__main__":
    leave(float(sys.argv[1]))
