"""`ctl` as a user types it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

CTL = Path(sys.executable).with_name("ctl")


def ctl(
    *arguments: str | Path, timeout: float = 480, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `ctl` with these arguments and, besides the test's own, these environment variables."""
    return subprocess.run(
        [str(CTL), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )
