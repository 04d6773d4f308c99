"""Start-up of `ctl --help` as a ratio to `python -c "import typer"`, the least that a Typer program can take."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 20


def seconds(command: list[str]) -> float:
    # Compiled modules are kept, as on any user's machine.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def main() -> None:
    ctl = [str(Path(sys.executable).with_name("ctl")), "--help"]
    rival = [sys.executable, "-c", "import typer"]
    seconds(ctl), seconds(rival)
    pairs = [(seconds(ctl), seconds(rival)) for _ in range(ROUNDS)]  # in turns, so that both meet the same machine
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"ctl --help {1000 * ours:.0f} ms, import typer {1000 * theirs:.0f} ms, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
