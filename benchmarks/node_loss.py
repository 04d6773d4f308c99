"""How soon a training run goes on after a machine was lost, on three machines (network namespaces: Linux, root).

    python benchmarks/node_loss.py

A machine with one of two ranks falls silent, as when its power fails: its link is cut, so that no closed socket tells
anybody. Told are the seconds until Ray's head declares it dead, and until the first step that no attempt had taken;
against them a cold start of the group, from the call of the stage on the running cluster to its first step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.core.metrics import METRICS_FILE, STEP
from tests.cluster.namespaces import HEAD_PORT, Network, until

STEPS = 100_000  # it is stopped
SCALING = {"num_workers": 2, "log_every": 1, "checkpoint_every_seconds": 1.0}
RUN = str(Path(__file__).resolve().parents[1] / "tests" / "training" / "run_once.py")
WAIT_SECONDS = 600.0
RANK = "RayTrainWorker"
DEATH = """
import sys, time
from cluster.control import runtime
runtime.use_token(create=False)
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
client = GcsClient(address=sys.argv[1])
print("looking", flush=True)
while all(node.state == GcsNodeInfo.ALIVE for node in client.get_all_node_info().values()):
    time.sleep(0.1)
print("dead", flush=True)
"""


def step(store: Path) -> int:
    """The last step that is written down; 0 before the first."""
    for path in store.glob(f".staging/pretrain-*/{METRICS_FILE}"):
        if lines := path.read_bytes().rpartition(b"\n")[0].splitlines():
            return int(json.loads(lines[-1])[STEP])
    return 0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Network(Path(folder), ("head", "one", "two")) as network:
        for machine in network.machines:
            machine.up()
        head, store, address = network.head, network.store, f"{network.head.address}:{HEAD_PORT}"
        asked = ("env", f"RAY_ADDRESS={address}", sys.executable, RUN, str(store), str(STEPS), json.dumps(SCALING))
        head.popen(*asked, stdout=subprocess.DEVNULL)
        until("the call of the stage", WAIT_SECONDS, lambda: list(store.glob(".staging/pretrain-*")))
        began = time.monotonic()
        until("the first step", WAIT_SECONDS, lambda: step(store))
        cold_seconds = time.monotonic() - began
        until("steps and checkpoints", WAIT_SECONDS, lambda: step(store) > 100)
        lost = next(machine for machine in network.machines[1:] if machine.processes(RANK))
        look = head.popen(sys.executable, "-c", DEATH, address, stdout=subprocess.PIPE, text=True)
        look.stdout.readline()
        lost.cut_link()
        cut_at = time.monotonic()
        dead_at: list[float] = []
        thread = threading.Thread(target=lambda: (look.stdout.readline(), dead_at.append(time.monotonic())))
        thread.start()
        threading.Event().wait(1.0)  # what was under way has arrived
        reached = step(store)
        until("a step after the loss", WAIT_SECONDS, lambda: step(store) > reached)
        gone_seconds = time.monotonic() - cut_at
        thread.join()
        detected_seconds = dead_at[0] - cut_at
    bound_seconds = 1.5 * detected_seconds + cold_seconds
    print(
        f"cold start {cold_seconds:.1f} s; a silent machine was declared dead after {detected_seconds:.1f} s, "
        f"the next step came after {gone_seconds:.1f} s: {gone_seconds / bound_seconds:.2f} of 1.5 times the detection "
        f"and a cold start (bar: 1)"
    )


if __name__ == "__main__":
    main()
