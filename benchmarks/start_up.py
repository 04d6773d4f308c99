"""What a command costs before it does anything: `ctl --help` and `ctl jobs list` beside `python -c "import typer"`, the
least that a Typer program can take, beside `ray`, and beside what `--rivals` has installed (sky, dstack); and from
submitting a script to the first line of it, beside `ray job submit` of the same one. All in turns, on one cluster."""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
# Not when it is loaded to be checked: when it runs.
SCRIPT = """
import time
if __name__ == "__main__":
    print("first line at", time.time(), flush=True)

from typing import ClassVar
from cluster.pipeline import main, pipeline
from pipelines.specs import Spec

class NothingSpec(Spec, frozen=True):
    kind: ClassVar[str] = "nothing"
    stage: ClassVar[str] = "nothing_stage:build"

@pipeline
def nothing(step):
    return step(NothingSpec())

if __name__ == "__main__":
    main(nothing)
"""
STAGE = "def build(ctx):\n    return {}\n"


def environment(home: Path) -> dict[str, str]:
    """Of a user who has nothing else; compiled modules are kept, as on any user's machine."""
    left_out = ("RAY_", "TRUNKLINE_", "PYTHONDONTWRITEBYTECODE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    store = {"TRUNKLINE_STORE": str(home / "store"), "RAY_AUTH_MODE": "token", "PATH": f"{BIN}:{kept['PATH']}"}
    return kept | store | {"HOME": str(home)}


def seconds(command: list[str], home: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(home))
    return time.perf_counter() - start


def in_turns(commands: dict[str, list[str]], rounds: int, home: Path) -> dict[str, float]:
    """Median seconds of each command."""
    for command in commands.values():
        seconds(command, home)
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            took[name].append(seconds(command, home))
    return {name: statistics.median(times) for name, times in took.items()}


def first_line(command: list[str], home: Path) -> tuple[float, float]:
    """Seconds from calling a command until the script that it submits begins, and until its first line is shown."""
    asked, begun, shown = time.time(), 0.0, 0.0
    with subprocess.Popen(
        command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"first line at (\S+)", line):
                begun, shown = float(found[1]), time.time()
    assert begun and not process.returncode, said
    return begun - asked, shown - asked


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def cluster(home: Path) -> Iterator[str]:
    """A cluster of `ctl up`; the URL of its dashboard."""
    port, dashboard = free_ports(2)
    while any(10002 <= one <= 19999 for one in (port, dashboard)):  # Ray's workers'
        port, dashboard = free_ports(2)
    up = [str(BIN / "ctl"), "up", "--port", str(port), "--dashboard-port", str(dashboard), "--num-cpus", "2"]
    subprocess.run(up, check=True, env=environment(home))
    try:
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        subprocess.run([str(BIN / "ctl"), "down"], check=True, env=environment(home))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of each command that only starts")
    parser.add_argument("--submits", type=int, default=5, help="of each command that submits")
    parser.add_argument("--rivals", type=Path, help="folder of an environment with `sky` and `dstack`")
    arguments = parser.parse_args()
    ctl, ray = str(BIN / "ctl"), str(BIN / "ray")
    with tempfile.TemporaryDirectory() as folder:
        home, user = Path(folder) / "home", Path(folder) / "user"
        for each in (home, user):
            each.mkdir()
        (user / "mine.py").write_text(SCRIPT)
        (user / "nothing_stage.py").write_text(STAGE)
        with cluster(home) as url:
            ours = [ctl, "submit", str(user / "mine.py")]
            theirs = [ray, "job", "submit", "--address", url, "--working-dir", str(user), "--", "python", "mine.py"]
            first_line(ours, home), first_line(theirs, home)
            pairs = [(first_line(ours, home), first_line(theirs, home)) for _ in range(arguments.submits)]
            for what, index in (("begins", 0), ("is shown", 1)):
                mine, rays = (statistics.median(pair[side][index] for pair in pairs) for side in (0, 1))
                print(
                    f"until the first line {what}: ctl submit {mine:.2f} s, ray job submit {rays:.2f} s, "
                    f"ratio {mine / rays:.2f}"
                )
            commands = {
                "import typer": [sys.executable, "-c", "import typer"],
                "ctl --help": [ctl, "--help"],
                "ctl jobs list": [ctl, "jobs", "list"],
                "ctl jobs list --cluster": [ctl, "jobs", "list", "--cluster"],
                "ray --help": [ray, "--help"],
                "ray job list": [ray, "job", "list", "--address", url],
            }
            for rival in ("sky", "dstack") if arguments.rivals else ():
                commands[f"{rival} --help"] = [str(arguments.rivals / "bin" / rival), "--help"]
            took = in_turns(commands, arguments.rounds, home)
    least = took["import typer"]
    for name, median in took.items():
        print(f"{name}: {1000 * median:.0f} ms, {median / least:.2f} times `import typer`")


if __name__ == "__main__":
    main()
