"""A process beside a node that has joined a head. When its raylet ends, since the head is gone, the network was, or it
was killed, the node's workers end with it: Ray leaves them, now and then, at work beside those of the run that goes on
elsewhere. Then the node joins again, as soon as its head answers: a run may be waiting for its room.
"""

from __future__ import annotations

import datetime
import os
import select
import sys
import threading
import time

from cluster.control import local, nodes, ports
from cluster.core.errors import NotReadyError

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0


def main() -> None:
    """`watch.py NODE_ID`: keep the node in its cluster, until `ctl down` ends it and this process with it."""
    pause_seconds = FIRST_PAUSE_SECONDS
    while node := next((node for node in nodes.nodes() if node.id == sys.argv[1]), None):
        joined_at = time.monotonic()
        for process in nodes.raylets(node):
            _wait(process.pid)
        if time.monotonic() - joined_at > LONGEST_PAUSE_SECONDS:
            pause_seconds = FIRST_PAUSE_SECONDS
        if count := nodes.end(node):
            _tell(f"{node.address}: the raylet has ended; processes that ended with it: {count}")
        threading.Event().wait(pause_seconds)  # nobody tells when a head is there again
        pause_seconds = min(LONGEST_PAUSE_SECONDS, 2 * pause_seconds)
        if not ports.listens(node.address):
            continue
        try:
            local.join_again(node)
            _tell(f"{node.address}: joined again")
        except NotReadyError as error:
            nodes.write_down(node)  # `ctl down` finds this process by it
            _tell(f"{node.address}: {error}")


def _tell(text: str) -> None:
    """Into the log, which is this process's output."""
    print(datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), text, flush=True)


def _wait(pid: int) -> None:
    """Wait until a process, which need not be our child, has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([handle], [], [])
    finally:
        os.close(handle)
