"""The resident memory of a cluster's processes: what they share counts once (PSS, of /proc/PID/smaps_rollup)."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

SAMPLE_SECONDS = 5.0  # reading it takes the kernel a while
MIB = 2**20


class Resident:
    """Of the processes whose HOME is a cluster's; `most` is the most of samples while it is a context."""

    def __init__(self, home: Path) -> None:
        self.home, self.most = str(home), 0.0
        self._end = threading.Event()

    def processes(self, beginning: str = "") -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, IndexError):
                if process.environ().get("HOME") == self.home and process.cmdline()[0].startswith(beginning):
                    found.append(process)
        return found

    def by_name(self) -> Counter[str]:
        """MiB, by what a process is."""
        found: Counter[str] = Counter()
        for process in self.processes():
            with suppress(psutil.Error):
                found[named(process.cmdline())] += process.memory_full_info().pss / MIB
        return found

    def now(self) -> float:
        """MiB."""
        return sum(self.by_name().values())

    def __enter__(self) -> Resident:
        self._end.clear()
        self.most = 0.0
        self._thread = threading.Thread(target=self._take)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()
        self._thread.join()

    def _take(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            self.most = max(self.most, self.now())


def named(command: list[str]) -> str:
    """What a process is: the title that Ray or vLLM has given it, or its program."""
    words = " ".join(command).split()
    if words[0].startswith(("ray::", "VLLM::", "ray-dashboard")):
        return words[0].split(".")[0]
    for program in ("gcs_server", "raylet", "dashboard/agent", "runtime_env/agent", "log_monitor", "monitor.py",
                    "dashboard.py", "client.server", "forkserver"):  # fmt: skip
        if any(program in word for word in words):
            return program
    return "others"
