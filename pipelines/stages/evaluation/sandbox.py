"""Programs that a model wrote, each run in a process of its own with limits, and killed with all that it started.

The process isolates itself by Linux namespaces (jail.py); where the kernel forbids that, nothing is run unless the spec
says `process`, which has the limits only: files and network are then open to the program.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.core.errors import JobError, NotReadyError
from pipelines.stages.evaluation import jail

GONE_SECONDS = 10.0


@dataclass(frozen=True)
class Limits:
    """What a program may use. CPU time is counted, so that a busy machine fails no program that is quick."""

    cpu_seconds: int = 10
    wall_seconds: float = 60.0  # Python's start included
    memory_bytes: int = 1 << 30
    isolation: Literal["namespaces", "process"] = "namespaces"


@dataclass(frozen=True)
class Verdict:
    """Whether a program came to its end, and if not, why."""

    passed: bool
    reason: str = ""


def require(limits: Limits) -> None:
    """Raise NotReadyError where programs cannot be isolated on this machine, JobError where none can run at all."""
    verdict = run("pass", limits)
    if not verdict.passed:
        raise JobError(f"the sandbox does not run a program that does nothing: {verdict.reason}")


def run(program: str, limits: Limits) -> Verdict:
    """Run a program. Nothing of it is left afterwards: no process, and under `namespaces` no file.

    Raises NotReadyError where it cannot be isolated.
    """
    token = secrets.token_hex(16)
    order = {
        "program": program,
        "token": token,
        "isolation": limits.isolation,
        "cpu_seconds": limits.cpu_seconds,
        "memory_bytes": limits.memory_bytes,
    }
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(jail.__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(json.dumps(order).encode(), timeout=limits.wall_seconds)
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
    return _verdict(output, token)


def _verdict(output: bytes, token: str) -> Verdict:
    try:
        report = json.loads(output)
    except ValueError:
        return Verdict(False, "ended before its end was reached, or by a limit")
    if isinstance(report, dict) and report.get("token") == token:
        return Verdict(True)
    return Verdict(False, str(report.get("error", "")) if isinstance(report, dict) else "")


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
