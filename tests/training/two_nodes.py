"""A Ray cluster of two nodes on one machine, whose second node can be lost and replaced."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

RAY = Path(sys.executable).with_name("ray")
START_ATTEMPTS = 4
FIRST_WORKER_PORT, WORKER_PORTS = 21000, 500  # each raylet has its own: on one address they would collide

FIND_SECOND = """
import ray
ray.init(log_to_driver=False, logging_level="error")
print(next(n["NodeID"] for n in ray.nodes() if n["Alive"] and "node:__internal_head__" not in n["Resources"]))
"""


class TwoNodes:
    """A head and a second node with one CPU each. A context: everything ends with it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_ADDRESS": self.address,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "20",  # slow is not dead; a closed socket tells at once
        }
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._started = 0

    def __enter__(self) -> TwoNodes:
        self._start("--head", f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false")
        self.join()
        return self

    def __exit__(self, *error: object) -> None:
        while self.nodes:
            self._end(self.nodes.pop())

    def join(self) -> None:
        """Add the second node."""
        self._start(f"--address={self.address}")

    def announce_end(self, seconds: int) -> None:
        """Tell the cluster that the second node will be taken away in so many seconds, as a cloud does."""
        found = subprocess.run([sys.executable, "-c", FIND_SECOND], **self._quietly())
        command = [str(RAY), "drain-node", f"--address={self.address}", f"--node-id={found.stdout.decode().strip()}"]
        reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=wanted elsewhere"]
        subprocess.run([*command, *reason, f"--deadline-remaining-seconds={seconds}"], **self._quietly())

    def lose(self) -> None:
        """Kill the second node with all that runs on it."""
        self._end(self.nodes.pop())

    def _quietly(self) -> dict[str, Any]:
        return {"env": self.environment, "check": True, "stdout": subprocess.PIPE}

    def _start(self, *options: str) -> None:
        """Start a node and wait until it is one; where Ray gives up, as on a busy machine, it is tried again."""
        for _ in range(START_ATTEMPTS):
            self._started += 1
            first = FIRST_WORKER_PORT + (self._started % 20) * WORKER_PORTS
            ports = [f"--min-worker-port={first}", f"--max-worker-port={first + WORKER_PORTS - 1}"]
            command = [str(RAY), "start", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--num-gpus=0"]
            command.append("--include-log-monitor=false")
            path = self.folder / f"node-{self._started}.log"
            with path.open("wb") as log:
                node = subprocess.Popen(
                    [*command, "--object-store-memory=100000000", *options, *ports],
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            pause = threading.Event()
            while node.poll() is None and b"Ray runtime started" not in path.read_bytes():
                pause.wait(0.1)  # a log sends no events
            if node.poll() is None:
                self.nodes.append(node)
                return
        raise AssertionError(f"no node in {START_ATTEMPTS} attempts: {path.read_text()[-2000:]}")

    @staticmethod
    def _end(node: subprocess.Popen[bytes]) -> None:
        family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        node.wait()
        psutil.wait_procs(family[1:])

    def workers(self) -> list[psutil.Process]:
        """The training workers on all nodes."""
        found = []
        for node in self.nodes:
            for process in psutil.Process(node.pid).children(recursive=True):
                try:
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        found.append(process)
                except psutil.NoSuchProcess:
                    continue
        return found
