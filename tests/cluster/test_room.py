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
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
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
