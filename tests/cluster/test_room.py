"""A group of workers that the cluster has no room for says so, in the log and in the job's state."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.control import room
from cluster.control.durable.records import JobRecord
from cluster.control.durable.shapes import State, Submitted
from cluster.core.storage.location import Location


def test_what_is_waited_for_is_told_once_and_so_is_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    record = JobRecord(Location(tmp_path), "job")
    record.create(Submitted(id="job", name="toy", command=(), submission={}, asked=""))
    record.write_state(State(attempt=2, state="RUNNING", started_at="then"))
    lease = record.lease(60.0)
    assert lease.acquire()
    for name, value in {"TRUNKLINE_JOB": "job", "TRUNKLINE_STORE": str(tmp_path), "TRUNKLINE_JOB_ATTEMPT": "2"}.items():
        monkeypatch.setenv(name, value)
    there = {"CPU": 1.0}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    lost = {"Alive": False, "Resources": {"CPU": 8.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": there}, lost])
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.0)
    told: list[str] = []
    group = room.Room(2, {"CPU": 1.0}, told.append)
    group.look()
    group.look()
    assert told == ["waiting for 2 x 1 CPUs, the cluster has 1"]
    job = record.job()
    assert job and (job.status, job.message) == ("WAITING", "for 2 x 1 CPUs, the cluster has 1")
    there["CPU"] = 2.0
    group.look()
    group.look()
    assert told[1:] == ["the cluster has what it waited for"]
    job = record.job()
    assert job and (job.status, job.message, job.started_at, job.attempt) == ("RUNNING", "", "then", 2)
    assert [event.kind for event in record.events()] == ["waiting", "going-on"]
    lease.release()


@pytest.mark.parametrize(
    ("nodes", "lacking"),
    [
        ([{"CPU": 2.0}] * 3, "for 2 x 3 CPUs on one node each, the nodes have room for 0"),
        ([{"CPU": 4.0}, {"CPU": 2.0}], "for 2 x 3 CPUs on one node each, the nodes have room for 1"),
        ([{"CPU": 3.0}], "for 2 x 3 CPUs, the cluster has 3"),
        ([{"CPU": 6.0}], ""),
        ([{"CPU": 3.0}, {"CPU": 3.0}], ""),
    ],
)
def test_cores_of_two_nodes_hold_no_worker(nodes: list[dict[str, float]], lacking: str) -> None:
    assert room.Room(2, {"CPU": 3.0, "GPU": 0.0}, print)._lacking(nodes) == lacking


def test_a_worker_takes_its_cores_where_its_gpu_is() -> None:
    group = room.Room(1, {"CPU": 4.0, "GPU": 1.0}, print)
    apart = group._lacking([{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}])
    assert apart == "for 1 x 4 CPUs and 1 GPUs on one node each, the nodes have room for 0"
    assert group._lacking([{"CPU": 4.0, "GPU": 1.0}]) == ""
    assert room.Room(10, {"CPU": 0.1}, print)._lacking([{"CPU": 1.0}]) == ""
