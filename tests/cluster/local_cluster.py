"""One cluster of `ctl up`, on ports and in a home of its own, for the tests of local and jobs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.core.provenance import PROJECT_ROOT

CTL = [sys.executable, "-c", "from cluster.cli.app import run; run()"]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a user with a home who has said nothing of Ray or Trunkline."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TRUNKLINE_"))}
    return {**kept, "HOME": str(home), **more}


def run(command: Sequence[str], environment: Mapping[str, str], code: int = 0, timeout: float = 480) -> str:
    """Run a command, expect an exit code, and return what it printed (stderr last)."""
    done = subprocess.run(
        command, env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@dataclass
class LocalCluster:
    """Runs `ctl` as a user of a machine would who has nothing else on it."""

    home: Path
    port: int
    dashboard_port: int

    def environment(self, **more: str) -> dict[str, str]:
        return environment(self.home, **({"TRUNKLINE_STORE": str(self.home / "store")} | more))

    def ctl(self, *arguments: str, code: int = 0, timeout: float = 480, **more: str) -> str:
        """Run `ctl`, expect an exit code, and return what it printed (stderr last)."""
        return run([*CTL, *arguments], self.environment(**more), code, timeout)

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*CTL, *arguments],
            env=self.environment(),
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def up(self, *more: str, num_cpus: int = 2) -> str:
        ports = ("--port", str(self.port), "--dashboard-port", str(self.dashboard_port))
        return self.ctl("up", *ports, "--num-cpus", str(num_cpus), *more, timeout=480)


@contextmanager
def running(home: Path) -> Iterator[LocalCluster]:
    """A running cluster, started by `ctl up` and ended by `ctl down`."""
    made = LocalCluster(home, free_port(), free_port())
    try:
        made.up()
        yield made
    finally:
        made.ctl("down")
