"""Processes that end with the one that started them, however that ends: vLLM's engine would outlive a killed replica.

A helper waits at a pipe whose other end only this process has, and kills what is left when that closes. It holds the
processes by descriptors: their numbers may be others' by then.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

HELPER = """
import os, signal, sys
os.read(0, 1)
for descriptor in map(int, sys.argv[1:]):
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""

_held: list[subprocess.Popen[bytes]] = []  # whose pipes close with this process


def end_children_with_this() -> None:
    """Have the children that `multiprocessing` has started by now killed when this process ends. Linux only."""
    if not hasattr(os, "pidfd_open"):
        return
    descriptors = [os.pidfd_open(child.pid) for child in multiprocessing.active_children() if child.pid]
    try:
        command = [sys.executable, "-I", "-S", "-c", HELPER, *map(str, descriptors)]
        _held.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=descriptors, start_new_session=True,
            )
        )  # fmt: skip
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
