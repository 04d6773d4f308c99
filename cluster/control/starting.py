"""What `ray.init` would start or say without use to us."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
LOST_NODE = re.compile(r"The node with node id: \w+ and address: (\S+) .* has been marked dead")
LOST_RAYLET = "Raylet is terminated."


@contextmanager
def without_helpers() -> Iterator[None]:
    """Start a private cluster without its dashboard, autoscaler and log monitor: three processes that import Ray, for
    a page that nobody opens, nodes that nobody adds and lines that no terminal shows."""
    from unittest.mock import patch

    from ray._private.node import Node

    with (
        patch.object(Node, "start_api_server", lambda *_, **__: None),
        patch.object(Node, "start_monitor", lambda *_: None),
        patch.object(Node, "start_log_monitor", lambda *_: None),
    ):
        yield


@contextmanager
def without_log() -> Iterator[None]:
    """Keep what Ray's C++ side logs in a driver off its terminal: what fails is raised in Python anyway.

    It reads the level once, as it starts, and says on file descriptor 2 that it did, whatever the level.
    """
    if LOG_LEVEL in os.environ:
        yield
        return
    os.environ[LOG_LEVEL] = "fatal"
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            del os.environ[LOG_LEVEL]  # a process that is started from here has a log of its own
            said.seek(0)
            for line in said:
                if LOG_LEVEL.encode() not in line:
                    os.write(2, line)


def tell_errors_in_a_line() -> None:
    """Have what a cluster's processes tell its drivers, as of a lost node, take one line of this driver's log.

    Ray prints them whole, with the last twenty lines of a dead process's own log, and among what the driver says.
    """
    import ray._private.worker

    ray._private.worker.print_to_stdstream = _tell_error


def _tell_error(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    for text in data["lines"]:
        if text.startswith(LOST_RAYLET):
            continue  # the head tells of the same node, with its address
        lost, first = LOST_NODE.match(text), text.strip().partition("\n")[0]
        said = f"a node of the cluster was lost: {lost[1]}" if lost else f"Ray: {first}"
        print(said, file=sys.stderr, flush=True)
