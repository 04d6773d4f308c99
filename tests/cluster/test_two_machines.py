"""Two machines: one that was cut off for longer than its head waits joins again by itself; and one goes on, with the
program that runs there, when its head is lost and started anew."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cluster.namespaces import HEAD_PORT, Network, until

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive]

RAY = str(Path(sys.executable).with_name("ray"))
# A head waits for a minute or so; this one for seconds. It needs neither a dashboard nor CPUs here.
HEAD = (
    *("env", "RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0", "RAY_enable_metrics_collection=0"),
    *("RAY_health_check_period_ms=1000", "RAY_health_check_timeout_ms=1000", "RAY_health_check_failure_threshold=3"),
    *(RAY, "start", "--head", "--block", f"--port={HEAD_PORT}", "--num-cpus=0", "--include-dashboard=false"),
    *("--include-log-monitor=false", "--object-store-memory=100000000"),
)
ALIVE = """
import sys, time
from cluster.control import runtime
runtime.use_token(create=False)
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
client, told = GcsClient(address=sys.argv[1]), -1
while True:
    count = sum(node.state == GcsNodeInfo.ALIVE for node in client.get_all_node_info().values())
    if count != told:
        print(count, flush=True)
    told = count
    time.sleep(0.2)
"""

# A program on the machine that stays: what it started before the head was lost, and something new, which takes a head.
PROGRAM = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")

@ray.remote(num_cpus=1)
class Counter:
    count = 0

    def add(self):
        self.count += 1
        return self.count

@ray.remote(num_cpus=0)
def name():
    import socket
    return socket.gethostname()

counter = Counter.remote()
print("counted", ray.get(counter.add.remote()), flush=True)
sys.stdin.readline()
print("counted", ray.get(counter.add.remote()), "on", ray.get(name.remote()), flush=True)
"""


def alive(network: Network) -> Iterator[int]:
    """How many nodes live, as their head says, whenever that has changed."""
    asking = (sys.executable, "-c", ALIVE, f"{network.head.address}:{HEAD_PORT}")
    with network.head.popen(*asking, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield from map(int, process.stdout)
        finally:
            process.kill()


def test_a_machine_that_was_cut_off_joins_again(tmp_path: Path) -> None:
    # The path of a socket is short.
    with TemporaryDirectory(dir="/tmp") as rays, Network(tmp_path, ("alpha", "beta")) as network:
        head, other = network.machines
        started = head.popen(*HEAD, f"--temp-dir={rays}", stdout=subprocess.PIPE, text=True)
        assert started.stdout and any("Ray runtime started" in line for line in started.stdout)
        assert "Joined" in other.up()
        counts = alive(network)
        assert next(counts) == 2
        (before,) = other.processes("/raylet ")
        other.cut_link()
        assert next(counts) == 1
        other.join_link()
        assert next(counts) == 2
        (after,) = other.processes("/raylet ")
        assert after.pid != before.pid
        log = other.home / ".trunkline" / "watch.log"
        until("it is written down", 120, lambda: "joined again" in log.read_text())
        other.ctl("down")
        assert next(counts) == 1
        assert not other.processes("python"), "nobody is left who would join once more"


def test_a_head_that_is_started_anew_knows_its_nodes(tmp_path: Path) -> None:
    kept = ("env", "RAY_gcs_storage=rocksdb", f"RAY_gcs_storage_path={tmp_path}/head")
    with TemporaryDirectory(dir="/tmp") as rays, Network(tmp_path, ("alpha", "beta")) as network:
        head, other = network.machines

        def start_head(name: str) -> None:
            started = head.popen(*kept, *HEAD, f"--temp-dir={rays}/{name}", stdout=subprocess.PIPE, text=True)
            assert started.stdout and any("Ray runtime started" in line for line in started.stdout)

        start_head("first")
        other.up()
        (raylet,) = other.processes("/raylet ")
        asking = ("env", "RAY_AUTH_MODE=token", sys.executable, "-c", PROGRAM, f"{head.address}:{HEAD_PORT}")
        with other.popen(*asking, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdin and program.stdout
            assert program.stdout.readline() == "counted 1\n"
            head.lose_power()
            head.boot()
            start_head("again")
            program.stdin.write("\n")
            program.stdin.flush()
            assert program.stdout.readline() in [f"counted 2 on {machine.name}\n" for machine in network.machines]
        assert next(count for count in alive(network) if count == 2), "the lost one is known to be dead"
        assert raylet.is_running(), "it has not joined anew: it was known"
