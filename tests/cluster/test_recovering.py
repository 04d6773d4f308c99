"""Whether a job is lost is known at once of a process of this machine, and by its lease of any other."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from cluster.control import recovering
from cluster.control.durable.records import LEASE, JobRecord
from cluster.core.storage.holder import Holder, this_process
from cluster.core.storage.lease import Entry
from cluster.core.storage.location import Location


def held(root: Path, job_id: str, seconds: float, **changes: str) -> JobRecord:
    """A job that a process runs which renewed its lease a moment ago; it has so many seconds left."""
    record = JobRecord(Location(root), job_id)
    renew(record, msgspec.structs.replace(this_process(job_id, seconds), **changes))
    return record


def renew(record: JobRecord, holder: Holder) -> None:
    entry = Entry(**msgspec.structs.asdict(holder))
    (record.place / LEASE).write_bytes("1.json", msgspec.json.encode(entry))


def test_a_sign_of_life_is_waited_for_where_only_the_lease_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovering, "LOOK_SECONDS", 0.02)
    ours, gone = held(tmp_path, "ours", 3600), held(tmp_path, "gone", 3600, started="1")
    rebooted = held(tmp_path, "rebooted", 0.5, boot="before")  # as after a power cut, on the same machine
    elsewhere = held(tmp_path, "elsewhere", 3600, host="other")
    before = elsewhere.holder()
    assert before
    later = msgspec.structs.replace(before, expires_at=before.expires_at + 20)
    threading.Timer(0.2, renew, (elsewhere, later)).start()
    told: list[str] = []
    recovering.await_signs([ours, gone, rebooted, elsewhere], told.append)
    assert ours.is_alive() and elsewhere.holder() == later
    assert not gone.is_alive() and not rebooted.is_alive()
    (said,) = told
    assert said.startswith("Waiting for a sign of life of rebooted, elsewhere, for ")


def test_nothing_is_waited_for_where_all_is_known(tmp_path: Path) -> None:
    told: list[str] = []
    never = JobRecord(Location(tmp_path), "never")
    recovering.await_signs(
        [held(tmp_path, "ours", 3600), held(tmp_path, "gone", 3600, started="1"), never], told.append
    )
    assert not told
