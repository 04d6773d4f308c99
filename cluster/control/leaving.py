"""What a pod does before Ray ends in it: its training workers finish their step, save, and end by themselves.

`ray stop` ends the raylet first, and the workers with it, in the middle of a step. Seen from within the pod: all of its
processes and no others are in `/proc`.

    python -m cluster.control.leaving SECONDS
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TITLE = b"ray::RayTrainWorker"  # how Ray calls their processes


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
    waited: dict[int, int] = {}  # of a worker's handle its pid
    for pid in training_workers(processes):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            waited[handle := os.pidfd_open(pid)] = pid
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while waited and (left_seconds := deadline - time.monotonic()) > 0:
        for handle in select.select([*waited], [], [], left_seconds)[0]:
            del waited[handle]
            os.close(handle)
    for handle in waited:
        os.close(handle)
    return list(waited.values())


if __name__ == "__main__":
    leave(float(sys.argv[1]))
