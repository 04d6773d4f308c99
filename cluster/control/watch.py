"""A process beside a node that has joined a head: when its raylet ends, since the head is gone or it was killed, the
node's workers end with it. Ray leaves them, now and then, at work beside those of the run that goes on elsewhere."""

from __future__ import annotations

import os
import select
import sys

from cluster.control import nodes


def main() -> None:
    """`watch.py NODE_ID`: wait for the raylet's end, then end the node."""
    for node in nodes.nodes():
        if node.id == sys.argv[1]:
            for process in nodes.raylets(node):
                _wait(process.pid)
            nodes.stop(node)


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
