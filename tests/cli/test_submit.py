"""`ctl submit` and `ctl jobs` where no cluster is: what is said before anything travels, and what the store tells."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cluster.control.durable import packages
from cluster.control.durable.output import Output
from cluster.control.durable.records import JobRecord
from cluster.control.durable.shapes import Policy, State, Submitted
from cluster.control.submitting import Submission
from cluster.core.storage.location import Location
from tests.cli.command import ctl

SCRIPT = """
from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec

@pipeline
def mine(step):
    return step(ConversationsSpec(source="file", path="talks.jsonl"))

if __name__ == "__main__":
    main(mine)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "mine.py").write_text(SCRIPT)
    (tmp_path / "user" / "talks.jsonl").write_text("{}\n")
    return tmp_path / "user" / "mine.py"


def kept(root: Path, job_id: str, asked: str = "", package: str = "") -> JobRecord:
    """A job's record, as a submitter leaves it."""
    record = JobRecord(Location(root), job_id)
    submitted = Submitted(
        id=job_id,
        name="mine",
        command=("python", "mine.py"),
        submission={},
        asked=asked,
        package=package,
        submitted_at="2026-11-30T08:00:00+00:00",
        user="me",
        policy=Policy(notify=("env:HOOK",)),
    )
    assert record.create(submitted)
    return record


@pytest.mark.heavy
def test_a_dry_run_says_what_would_be_and_does_nothing(script: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    said = ctl("submit", script, "--dry-run", "--store", root, "--after", "x", cwd=script.parent)
    assert said.returncode == 0, said.stderr
    assert "to build" in said.stdout and "python mine.py" in said.stdout and "user is in no git checkout" in said.stdout
    assert (
        "no Ray cluster is running here" in said.stdout and "waits for job x, which is not in the store" in said.stdout
    )
    assert not root.exists()
    given = ("submit", script, "--dry-run", "--json", "--store", root, "--cron", "@yearly")
    found = json.loads(ctl(*given, cwd=script.parent).stdout)
    assert found["notes"][0].startswith("would run @yearly UTC: ") and found["notes"][0].count("-01-01T00:00:00") == 3
    assert found["root"] == str(script.parent) and len(found["package"]) == 64 and not found["kept"]


@pytest.mark.heavy
def test_an_id_that_was_submitted_needs_no_cluster(script: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    record = kept(root, "nightly", Submission(str(script), {}, "", str(root), str(script.parent)).asked)
    output = Output(record.root, "nightly", 1)
    output.write(b"what it said\n")
    output.close()
    lease = record.lease(60.0)
    assert lease.acquire()
    record.write_state(State(attempt=1, state="RUNNING", started_at="2026-11-30T08:00:01+00:00"))
    record.end("FAILED", 7, "")
    lease.release()
    given = ("submit", script, "--id", "nightly", "--store", root)
    again = ctl(*given, cwd=script.parent)
    assert again.returncode == 7 and "what it said\n" in again.stdout
    other = ctl(*given, "--set", "conversations.path=x", cwd=script.parent)
    assert other.returncode == 3 and "other fields" in other.stderr
    (job,) = json.loads(ctl("jobs", "list", "--json", "--store", root).stdout)
    assert (job["id"], job["status"], job["exit_code"]) == ("nightly", "FAILED", 7)
    assert ctl("jobs", "logs", "nightly", "--store", root).stdout == "what it said\n"
    assert ctl("jobs", "stop", "nightly", "--store", root).stdout == "nightly: FAILED\n"
    nearest = ctl("jobs", "show", "nightli", "--store", root)
    assert nearest.returncode == 3 and "'nightly'" in nearest.stderr


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--notify", "https://hooks.example/canary", 3),
        ("--secret", "TOKEN=canary", 3),
        ("--secret", "TOKEN=file:canary/relative", 3),
        ("--max-runtime", "soon", 2),
        ("--retry-on", "300", 2),
        ("--id", "../up", 3),
        ("--every", "0.5s", 2),
        ("--cron", "61 * * * *", 2),
    ],
)
def test_what_cannot_be_meant_is_refused_and_no_secret_repeated(
    script: Path, tmp_path: Path, option: str, value: str, code: int
) -> None:
    said = ctl("submit", script, option, value, "--store", tmp_path / "store", cwd=script.parent)
    assert said.returncode == code and option.removeprefix("--id").strip("-") in said.stderr
    assert "canary" not in said.stderr.replace("file:canary/relative", "") and not (tmp_path / "store").exists()


@pytest.mark.heavy
def test_old_jobs_are_pruned_with_their_logs_and_code(tmp_path: Path) -> None:
    root = Location(tmp_path / "store")
    code = []
    for name in (b"shared", b"own"):
        (tmp_path / "zip").write_bytes(name)
        code.append(packages.keep(root, tmp_path / "zip"))
    for job_id, package in (("old", code[0]), ("older", code[1]), ("begun", code[0])):
        record = kept(tmp_path / "store", job_id, package=package)
        Output(root, job_id, 1).write(b"said\n")
        if job_id != "begun":
            record.end("SUCCEEDED", 0, "")
            end = msgspec.structs.replace(record.ended(), ended_at="2001-01-01T00:00:00+00:00")  # type: ignore[type-var]
            record.place.write_bytes("end.json", msgspec.json.encode(end))
    listed = ctl("jobs", "prune", "--store", root.url)
    assert listed.stdout.split("\n")[:2] == ["old", "older"] and len(list(root.walk())) == 10
    assert ctl("jobs", "prune", "--yes", "--store", root.url).stdout.split() == ["old", "older"]
    assert sorted(root.walk()) == [
        ".jobs/logs/begun/0001-00000000000000",
        f".jobs/packages/{code[0]}.zip",
        ".jobs/records/begun/submission.json",
    ]
    (job,) = json.loads(ctl("jobs", "list", "--json", "--store", root.url).stdout)
    assert (job["id"], job["status"]) == ("begun", "PENDING")
