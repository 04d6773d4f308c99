"""Functions that a model wrote, each tried in processes of its own with limits, and killed with all that they start.

The tests run beside the function and not with it (trial.py): a function that forges its own verdict has none to forge.
The processes isolate themselves by Linux namespaces (jail.py); where the kernel forbids that, nothing is run unless the
spec says `process`, which has the limits only: files and network are then open to the program.
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
from typing import Literal

from cluster.core.errors import JobError, NotReadyError
from pipelines.stages.evaluation import jail, trial

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


def require(limits: Limits) -> None:
    """Raise NotReadyError where programs cannot be isolated on this machine, JobError where none can run at all."""
    verdict = run(Trial("def one(): return 1", "one", "assert one() == 1"), limits)
    if not verdict.passed:
        raise JobError(f"the sandbox does not run a function that returns 1: {verdict.reason}")


def run(tried: Trial, limits: Limits) -> Verdict:
    """Try a function. Nothing of it is left afterwards: no process, and under `namespaces` no file.

    Raises NotReadyError where it cannot be isolated.
    """
    order = {
        "solution": tried.solution,
        "entry_point": tried.entry_point,
        "isolation": limits.isolation,
        "cpu_seconds": limits.cpu_seconds,
        "memory_bytes": limits.memory_bytes,
    }
    lines = [json.dumps(order), json.dumps({"setup": tried.setup, "test": tried.test})]
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(trial.__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            output, errors = process.communicate("\n".join(lines).encode(), timeout=limits.wall_seconds)
        except subprocess.TimeoutExpired:
            return Verdict(False, "timed out")
        finally:
            _kill(process)
    if process.returncode == jail.CANNOT_ISOLATE:
        raise NotReadyError(
            f"this machine cannot isolate a program: {errors.decode(errors='replace')}",
            "Allow unprivileged user namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces; in a "
            "container, its seccomp profile), or set isolation: process, where programs can write and connect freely.",
        )
    try:
        report = json.loads(output)
    except ValueError:
        return Verdict(False, trial.GONE)
    return Verdict(bool(report.get("passed")), str(report.get("error", "")))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its group, if they still run, and wait until the last that holds its output has gone.

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
