"""What an engine said last: the end of its process's log, read on its node, and where it stood when it hung."""

from __future__ import annotations

import faulthandler
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LINES = 12
TAIL_BYTES = 1 << 16
READ_SECONDS = 20.0
CAUSE_CHARS = 500
RAISED = re.compile(r"(?!ray\.exceptions)[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Weights)\b")
STDERR = 2  # of the process: Ray has it written to a file


@dataclass(frozen=True)
class Place:
    """Where an engine's process runs, and the files that its output goes to."""

    node_id: str
    logs: tuple[str, ...]


def here() -> Place:
    """The place of this process, a worker of Ray's."""
    worker = ray._private.worker.global_worker
    logs = (worker.get_out_file_path(), worker.get_err_file_path())
    return Place(ray.get_runtime_context().get_node_id(), tuple(log for log in logs if log))


@contextmanager
def stack_when_late(timeout_seconds: float) -> Iterator[None]:
    """Where the work within takes longer, what it is at is written to the log: whoever waits for it ends it soon."""
    if timeout_seconds:
        faulthandler.dump_traceback_later(timeout_seconds, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def last_words(place: Place) -> str:
    """The last lines of the log at a place, or why they cannot be read."""
    where = NodeAffinitySchedulingStrategy(place.node_id, soft=False)
    tail = ray.remote(_tail).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
    try:
        return str(ray.get(tail.remote(place.logs), timeout=READ_SECONDS))
    except RayError as error:
        return f"(it cannot be read: {str(error).splitlines()[0]})"


def cause_of(error: Exception) -> str:
    """What was raised in the end, of an error of Ray's that holds the whole traceback: its name and its words."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    raised = [number for number, line in enumerate(lines) if RAISED.match(line)]
    words = lines[raised[-1] :] if raised else lines[-1:]
    return " ".join(" ".join(words).split())[:CAUSE_CHARS]


def _tail(logs: tuple[str, ...]) -> str:
    lines: list[str] = []
    for log in map(Path, logs):
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines += [line for line in file.read().decode(errors="replace").splitlines() if line.strip()][-LINES:]
    return "\n".join(lines)
