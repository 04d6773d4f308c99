"""Three machines (network namespaces) with one store: a training job outlives a machine, its head and a link, and ends
with the bits of one that nothing happened to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.control.durable.records import JobRecord
from cluster.core.metrics import METRICS_FILE, STEP, TIMED, read
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from tests.cluster.namespaces import Machine, Network, until
from tests.training.tiny import make_tokens

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(3600)]

STEPS = 1500
CUT_SECONDS = 30
WAIT_SECONDS = 600.0
SCRIPT = f"""
from cluster.pipeline import main, pipeline
from tests.training.tiny import pretrain

@pipeline
def tiny(step):
    return step(pretrain({STEPS}, optimizer="muon"), tokens="tokens/tiny")

if __name__ == "__main__":
    main(tiny)
"""
SCALING = {"num_workers": 2, "log_every": 1, "checkpoint_every_seconds": 0.5, "max_failures": 10}
RANK = "RayTrainWorker"


class Run:
    """A job that trains on a network's machines, for a store."""

    def __init__(self, network: Network, store: Path) -> None:
        make_tokens(Store(store))
        script = network.folder / "user" / "tiny.py"
        script.parent.mkdir(exist_ok=True)
        script.write_text(SCRIPT)
        self.network, self.store = network, store
        sets = [word for name, value in SCALING.items() for word in ("--set", f"scaling.{name}={value}")]
        self.id = network.head.ctl("submit", str(script), "--store", str(store), "--detach", *sets).strip()

    def step(self) -> int:
        """The last step that is written down; 0 before the first."""
        for path in (*self.store.glob(f".staging/*/{METRICS_FILE}"), *self.store.glob(f"pretrain/*/{METRICS_FILE}")):
            if written := path.read_bytes().rpartition(b"\n")[0].splitlines():
                return int(json.loads(written[-1])[STEP])
        return 0

    def await_steps(self, count: int) -> None:
        """Return once there are so many steps more than there were at any time before."""
        target = self.step() + count
        assert target < STEPS, "it went too fast: raise STEPS"
        until(f"step {target}", WAIT_SECONDS, lambda: self.step() >= target)

    def status(self, machine: Machine) -> str:
        listed = json.loads(machine.ctl("jobs", "list", "--json", "--store", str(self.store)))
        return next(str(job["status"]) for job in listed if job["id"] == self.id)

    def await_end(self, machine: Machine) -> None:
        """Return once it has ended well, as a machine is told."""
        until("the end", WAIT_SECONDS, JobRecord(Location(self.store), self.id).ended)
        assert self.status(machine) == "SUCCEEDED", machine.ctl("jobs", "logs", self.id, "--store", str(self.store))

    def rank_away_from_the_head(self) -> Machine:
        """A machine that a rank is on, and the job's program is not."""
        found = [machine for machine in self.network.machines for _ in machine.processes(RANK)]
        assert len(found) == len(set(found)) == 2, "two ranks of one CPU each are on two machines, and no other"
        return found[-1]


def lines(artifact: Artifact) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in TIMED} for line in read(artifact.location)]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network(tmp_path, ("alpha", "beta", "gamma")) as made:
        yield made


def alive(network: Network) -> int:
    return sum(node["alive"] for node in json.loads(network.head.ctl("status", "--json"))["nodes"])


def test_a_job_outlives_a_machine_its_head_and_a_link(network: Network, tmp_path: Path) -> None:
    head, other, _ = network.machines
    kept = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "head")}
    head.up(**kept)
    with ThreadPoolExecutor() as pool:
        list(pool.map(Machine.up, network.machines[1:]))
    assert alive(network) == 3
    undisturbed = Run(network, tmp_path / "undisturbed")
    undisturbed.await_end(other)
    run = Run(network, tmp_path / "store")
    run.await_steps(10)

    lost = run.rank_away_from_the_head()
    lost.cut_link()
    run.await_steps(10)
    assert alive(network) == 2
    lost.join_link()

    head.lose_power()
    head.boot()
    assert f"A job goes on that the last head left behind: {run.id}." in head.up(**kept)
    run.await_steps(10)
    assert run.status(other) == "RUNNING"

    cut = run.rank_away_from_the_head()
    cut.cut_link()
    threading.Event().wait(CUT_SECONDS)  # so long is what is tried
    cut.join_link()
    run.await_end(other)

    happened = [event.kind for event in JobRecord(Location(run.store), run.id).events()]
    losses = [kind for kind in happened if kind in ("started", "restarted", "recovered", "succeeded")]
    # The machine's loss is the group's to mend, the head's that of `ctl up`; whether a link's is one is Ray's to say.
    assert (losses[:4], losses[-1]) == (["started", "restarted", "recovered", "started"], "succeeded")
    ours, theirs = (Store(one.store).list("pretrain")[0] for one in (run, undisturbed))
    assert [line[STEP] for line in lines(ours)] == list(range(1, STEPS + 1))
    assert lines(ours) == lines(theirs)
    assert ours.record.files["model.safetensors"] == theirs.record.files["model.safetensors"]
    until("the lost machine joins again by itself", WAIT_SECONDS, lambda: alive(network) == 3)
