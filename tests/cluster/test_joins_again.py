"""A machine that was cut off for longer than its head waits is declared dead by it, and joins it again by itself."""

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


def alive(network: Network) -> Iterator[int]:
    """How many nodes live, as their head says, whenever that has changed."""
    asking = (sys.executable, "-c", ALIVE, f"{network.head.address}:{HEAD_PORT}")
    with network.head.popen(*asking, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield from map(int, process.stdout)


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
        assert not other.processes(), "nobody is left who would join once more"
