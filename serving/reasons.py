"""Why a replica did not start, in one line of all that Ray and vLLM write about it."""

from __future__ import annotations

import re
from pathlib import Path

import ray

ERROR_LINE = re.compile(r"(?:[\w.]+\.)?\w*(?:Error|Exception): .+")
PROCESS = re.compile(r"\(pid=(\d+)")  # of the replica, in Ray's account of its error
# How Ray quotes an error within another, and how vLLM's processes report the death of their children.
WRAPPERS = ("Traceback (most recent call last)", "See root cause above", "See stack trace for root cause")


def reason(message: str) -> str:
    """The last error that a failed replica reports; where it only points to a child process, that one's, from the
    replica's log, which both write.

    The log is read where this machine has it: on the node of the replica, which a local cluster always is.
    """
    if own := _errors(message):
        return own[-1]
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    for pid in PROCESS.findall(message):
        for path in sorted(logs.glob(f"worker-*-{pid}.*"), key=lambda path: path.stat().st_mtime, reverse=True):
            if found := _errors(path.read_text(errors="replace")):
                return found[-1]
    return (message.strip().splitlines() or ["no reason given"])[-1]


def _errors(text: str) -> list[str]:
    """What follows a traceback, without what merely wraps or points to another error."""
    return [line.strip() for line in ERROR_LINE.findall(text) if not any(wrapper in line for wrapper in WRAPPERS)]
