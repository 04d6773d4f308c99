"""Code that a model wrote, in processes of its own with limits, which are killed with all that they start.

A function is tried: the tests run beside it and not with it (trial.py), so that one that forges its own verdict has
none to forge. A program is executed for what it prints (execution.py). The processes isolate themselves by Linux
namespaces (jail.py); where the kernel forbids that, nothing is run unless the spec says `process`, which has the limits
only: files and network are then open to the program.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.core.errors import JobError, NotReadyError
from cluster.core.sandbox import execution, jail, trial

GONE_SECONDS = 10.0


@dataclass(frozen=True)
class Limits:
    """What a program may use. CPU time is counted, so that a busy machine fails no program that is quick."""

    cpu_seconds: int = 10
    wall_seconds: float = 60.0  # Python's start included
    memory_bytes: int = 1 << 30
    isolation: Literal["namespaces", "process"] = "namespaces"


@dataclass(frozen=True)
class Trial:
    """A `solution`, Python that defines the function `entry_point`, and a `test`, Python that calls it by this name.

    Arguments and results are plain data: numbers, texts, lists, tuples, dictionaries and sets of them. `setup` defines
    what else the test needs; it is trusted, and so is the test.
    """

    solution: str
    entry_point: str
    test: str
    setup: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether a test came to its end, and if not, why."""

    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Printed:
    """What a program printed, and why it ended early, where it did."""

    output: bytes
    error: str = ""


def require(limits: Limits) -> None:
    """Raise NotReadyError where programs cannot be isolated on this machine, JobError where none can run at all."""
    verdict = run(Trial("def one(): return 1", "one", "assert one() == 1"), limits)
    if not verdict.passed:
        raise JobError(f"the sandbox does not run a function that returns 1: {verdict.reason}")


def run(tried: Trial, limits: Limits) -> Verdict:
    """Try a function. Nothing of it is left afterwards: no process, and under `namespaces` no file.

    Raises NotReadyError where it cannot be isolated.
    """
    order = {"solution": tried.solution, "entry_point": tried.entry_point}
    ended = _confined(trial.__file__, order, limits, json.dumps({"setup": tried.setup, "test": tried.test}))
    if ended.late:
        return Verdict(False, "timed out")
    try:
        report = json.loads(ended.output)
    except ValueError:
        return Verdict(False, trial.GONE)
    return Verdict(bool(report.get("passed")), str(report.get("error", "")))


def execute(program: str, limits: Limits) -> Printed:
    """Run a Python program for what it prints. Nothing of it is left afterwards, as `run` leaves nothing.

    Raises NotReadyError where it cannot be isolated.
    """
    ended = _confined(execution.__file__, {"program": program}, limits)
    if ended.late:
        return Printed(ended.output, f"ran longer than {limits.wall_seconds:g} s")
    whole = ended.output.endswith(execution.END)
    return Printed(ended.output.removesuffix(execution.END), "" if whole else trial.GONE)


@dataclass(frozen=True)
class _Ended:
    """What the processes of a script wrote, and whether they were late."""

    output: bytes
    late: bool = False


def _confined(script: str, order: dict[str, Any], limits: Limits, rest: str = "") -> _Ended:
    """Run a script that enters the jail, with an order and the rest of its input. What it writes is bounded by what the
    jail allows a file."""
    order |= {"isolation": limits.isolation, "cpu_seconds": limits.cpu_seconds, "memory_bytes": limits.memory_bytes}
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", str(Path(script).resolve())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},  # which `-I` would not read: sets have the same order each time
            start_new_session=True,
        )
        late, errors = False, b""
        try:
            _, errors = process.communicate(f"{json.dumps(order)}\n{rest}".encode(), timeout=limits.wall_seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _kill(process)
        output.seek(0)
        written = output.read(jail.MAX_FILE_BYTES)
    if process.returncode == jail.CANNOT_ISOLATE:
        raise NotReadyError(
            f"this machine cannot isolate a program: {errors.decode(errors='replace')}",
            "Allow unprivileged user namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces; in a "
            "container, its seccomp profile), or set isolation: process, where programs can write and connect freely.",
        )
    return _Ended(written, late)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its group, if they still run, and wait until the last that holds its errors has gone.

    The end of a PID namespace's first process kills everything in it.
    """
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        try:
            process.communicate(timeout=GONE_SECONDS)
        except subprocess.TimeoutExpired:  # only without namespaces: something has left the group
            pass
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()
