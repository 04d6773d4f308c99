"""Schedules: when they are due, what is made up for, and a pipeline that a cluster runs again and again."""

from __future__ import annotations

import datetime
import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.control.durable.records import JobRecord
from cluster.control.durable.shapes import Schedule, Submitted
from cluster.control.schedules import times
from cluster.control.schedules.runs import due_of, last_run, run_id
from cluster.control.schedules.waiting import Waiting
from cluster.core.errors import UsageError
from cluster.core.storage.location import Location
from tests.cluster.local_cluster import LocalCluster

BEGUN = datetime.datetime(2026, 11, 30, 8, 0, tzinfo=datetime.UTC)
MOMENTS = st.datetimes(datetime.datetime(2026, 12, 1), datetime.datetime(2028, 1, 1), timezones=st.just(datetime.UTC))
CRONS = st.sampled_from(["*/5 * * * *", "0 3 * * *", "30 2 * * *", "15 14 1 * *", "0 22 * * 5", "@weekly", "0 0 9 2 *"])
ZONES = st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Asia/Kolkata"])


def at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


@given(MOMENTS, st.floats(1, 1e6))
@example(BEGUN, 60.0)
def test_every_so_often_from_the_beginning_on(now: datetime.datetime, seconds: float) -> None:
    schedule = Schedule(every_seconds=seconds)
    before, after = times.latest(schedule, BEGUN, now), times.following(schedule, BEGUN, now)
    assert before and after and before <= now < after
    assert (after - before).total_seconds() == pytest.approx(seconds, abs=1e-4)
    assert times.latest(schedule, BEGUN, BEGUN - datetime.timedelta(seconds=1)) is None


@given(MOMENTS, CRONS, ZONES)
def test_cron_comes_once_between_two_looks(now: datetime.datetime, cron: str, zone: str) -> None:
    """Whoever looks later finds as the latest what was to follow, and nothing is passed over."""
    schedule = Schedule(cron=cron, time_zone=zone)
    after = times.following(schedule, BEGUN, now)
    assert after and after > now
    assert times.latest(schedule, BEGUN, after) == after
    before = times.latest(schedule, BEGUN, after - datetime.timedelta(seconds=1))
    assert before is None or before <= now


def test_the_hour_that_is_missing_and_the_hour_that_comes_twice() -> None:
    nightly = Schedule(cron="30 2 * * *", time_zone="Europe/Paris")
    assert times.following(nightly, BEGUN, at("2027-01-10 00:00")) == at("2027-01-10 01:30")  # winter: UTC+1
    assert times.following(nightly, BEGUN, at("2027-07-10 00:00")) == at("2027-07-10 00:30")  # summer: UTC+2
    missing = times.following(nightly, BEGUN, at("2027-03-28 00:00"))  # 2:00 is followed by 3:00
    assert missing == at("2027-03-28 01:00")
    first = times.following(nightly, BEGUN, at("2027-10-31 00:00"))  # 3:00 is followed by 2:00
    assert first and times.following(nightly, BEGUN, first) == at("2027-11-01 01:30")


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule(cron="61 * * * *"), "not a schedule of cron"),
        (Schedule(cron="0 3 * * *", time_zone="Mars/Olympus"), "no such zone"),
        (Schedule(cron="0 0 31 2 *"), "there is no such day"),
    ],
)
def test_what_is_never_due_is_refused(schedule: Schedule, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        times.check(schedule, BEGUN)


def test_the_name_of_a_run_is_its_time() -> None:
    due = at("2026-12-01 03:00")
    assert run_id("nightly.eu", due) == "nightly.eu.20261201T030000Z"
    assert due_of("nightly.eu.20261201T030000Z") == due
    assert due_of("nightly.eu") is None and due_of("nightly-2026") is None


class Played(Waiting):
    """One whose runs are written down, and neither resolved nor handed to a cluster."""

    def _begin(self, job_id: str) -> int:
        return 0 if JobRecord(self.record.root, job_id).create(self.template(job_id)) else 3

    def template(self, job_id: str) -> Submitted:
        return Submitted(id=job_id, name="toy", command=("true",), submission={}, asked="")


def played(folder: Path, schedule: Schedule, begun: datetime.datetime) -> Played:
    record = JobRecord(Location(folder), "tick")
    made = Submitted(
        id="tick", name="toy", command=(), submission={}, asked="", schedule=schedule, submitted_at=begun.isoformat()
    )
    record.create(made)
    return Played(record)


def runs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".jobs" / "records").iterdir() if path.name != "tick")


def test_what_was_missed_is_made_up_for_once_and_one_run_goes_at_a_time(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    schedule = Schedule(every_seconds=3600)
    begun = now - datetime.timedelta(hours=5, minutes=30)
    waiting = played(tmp_path, schedule, begun)
    due = times.latest(schedule, begun, now)
    assert due
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    deadline = time.monotonic() + 240
    while not runs(tmp_path) and time.monotonic() < deadline:
        thread.join(0.02)  # a store sends no events
    waiting.stop()
    thread.join(240)
    assert runs(tmp_path) == [run_id("tick", due)]  # the last of six
    later = due + datetime.timedelta(hours=1)
    again = played(tmp_path, schedule, begun)  # as after its head was lost
    assert again.met == due
    again.meet(later)
    assert runs(tmp_path) == [run_id("tick", due)]  # that one has not ended
    JobRecord(Location(tmp_path), run_id("tick", due)).end("SUCCEEDED", 0, "")
    again.meet(later)
    assert runs(tmp_path) == [run_id("tick", due), run_id("tick", later)]
    last = last_run(Location(tmp_path), "tick")
    assert last and last.id == run_id("tick", later)


SCRIPT = '''
from pathlib import Path
from typing import ClassVar
from cluster.core.specs.naming import File
from cluster.pipeline import main, pipeline
from pipelines.specs import Spec

class WorkSpec(Spec, frozen=True):
    """Work of a test."""

    kind: ClassVar[str] = "work"
    stage: ClassVar[str] = "ticking_stage:build"

    path: File = ""
    """What it is made of, which changes."""

@pipeline
def ticking(step):
    return step(WorkSpec())

if __name__ == "__main__":
    main(ticking)
'''
STAGE = """
from pathlib import Path

def build(ctx):
    print("made of", Path(ctx.spec.path).read_text(), flush=True)
    return {}
"""


@pytest.mark.heavy
@pytest.mark.exhaustive
def test_a_cluster_runs_a_pipeline_again_and_again(local_cluster: LocalCluster, tmp_path: Path) -> None:
    """Each run is a job, of the code that was submitted and of what stands in its files when it is due."""
    folder = tmp_path / "user"
    folder.mkdir()
    for name, text in (("ticking.py", SCRIPT), ("ticking_stage.py", STAGE)):
        (folder / name).write_text(text)
    data = tmp_path / "data.txt"
    data.write_text("one")
    given = ("submit", str(folder / "ticking.py"), "--set", f"work.path={data}", "--id", "tick", "--every", "3s")
    said = local_cluster.ctl(*given)
    assert "ctl jobs stop tick" in said
    (folder / "ticking.py").unlink()  # what was submitted is what runs

    def listed() -> dict[str, str]:
        (found,) = json.loads(local_cluster.ctl("jobs", "schedules", "--json"))
        return dict(found)

    def until_another(before: str) -> str:
        deadline, pause = time.monotonic() + 400, threading.Event()
        while (found := listed())["last"] == before or found["last_status"] not in ("SUCCEEDED", "FAILED"):
            assert time.monotonic() < deadline, found
            pause.wait(0.5)  # a store sends no events
        assert found["last_status"] == "SUCCEEDED", local_cluster.ctl("jobs", "logs", found["last"])
        return found["last"]

    first = until_another("")
    assert "made of one" in local_cluster.ctl("jobs", "logs", first)
    data.write_text("two")
    logs = ""
    last = first
    while "made of two" not in logs:
        last = until_another(last)
        logs += local_cluster.ctl("jobs", "logs", last)
    assert listed()["next"]
    assert "is a schedule" in local_cluster.ctl("jobs", "retry", "tick", code=3)
    assert "STOPPED" in local_cluster.ctl("jobs", "stop", "tick")
    found = listed()
    assert (found["status"], found["next"]) == ("STOPPED", "")
    assert "until 20" in local_cluster.ctl("jobs", "show", "tick")  # what it waited for
