"""The runs of a schedule: jobs of their own, each called by the time at which it was due.

The name makes a run happen once, however many processes begin it, and says when the last one was.
"""

from __future__ import annotations

import datetime
import re
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from cluster.control import dashboard
from cluster.control.durable import finding
from cluster.control.durable.records import JobRecord, records_of, this_job
from cluster.control.durable.shapes import Job, Policy, Schedule, Submitted, now
from cluster.control.submitting import Submission, demand, hand_over
from cluster.core.errors import NotReadyError, TrunklineError
from cluster.core.graph import SCALING, Graph, pinned, read_changes
from cluster.core.pipeline import load_script
from cluster.core.specs import spec as specs
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store

DUE = "%Y%m%dT%H%M%SZ"
PROGRAM = ("python", "-m", "cluster.control.schedules.waiting")
ALWAYS = 1_000_000  # a schedule goes on however often its head is lost


def scheduled(submitted: Submitted, schedule: Schedule, graph: Graph) -> Submitted:
    """The job that waits, and submits what was to be submitted."""
    each = {"scaling": specs.fields(graph.scaling), "command": submitted.command, "policy": submitted.policy}
    return msgspec.structs.replace(
        submitted,
        command=PROGRAM,
        submission={**submitted.submission, "resolved": {}},  # anew for each run
        policy=Policy(retries=ALWAYS, notify=submitted.policy.notify),
        demand={},
        schedule=msgspec.structs.replace(schedule, **each),
    )


def run_id(schedule_id: str, due: datetime.datetime) -> str:
    return f"{schedule_id}.{due.strftime(DUE)}"


def due_of(job_id: str) -> datetime.datetime | None:
    """When a run was due, by its name; None for other jobs."""
    _, _, text = job_id.rpartition(".")
    if not re.fullmatch(r"\d{8}T\d{6}Z", text):
        return None
    return datetime.datetime.strptime(text, DUE).replace(tzinfo=datetime.UTC)


def last_run(root: Location, schedule_id: str) -> Job | None:
    """The run of a schedule that was due last."""
    before = f"{schedule_id}."
    names = [name for name in records_of(root).names() if name.startswith(before) and due_of(name)]
    ours = [name for name in names if "." not in name.removeprefix(before)]
    return JobRecord(root, max(ours)).job() if ours else None


def begin(schedule: JobRecord, job_id: str) -> None:
    """Resolve what a run is made of, as it is now, write it down, and hand it to the cluster that this process is on.

    Called in the folder that travelled. Raises what loading the script does, and NotReadyError where the cluster does
    not take it; then it can be begun again.
    """
    submitted = schedule.submitted()
    assert submitted and submitted.schedule
    record = JobRecord(schedule.root, job_id)
    if record.submitted() is None:
        record.create(_resolved(schedule.root, submitted, job_id))
    run = record.submitted()
    assert run
    finding.remember(job_id, schedule.root)
    if not record.has_begun():  # of several that it was handed to one runs it
        hand_over(record, run, number=len(record.handed()) + 1)


def _resolved(root: Location, schedule: Submitted, job_id: str) -> Submitted:
    each = schedule.schedule
    assert each
    submission = Submission(**schedule.submission)
    graph = load_script(Path(each.command[1])).graph(Store(root.url), _changes(each), submission.name)
    return msgspec.structs.replace(
        schedule,
        id=job_id,
        command=each.command,
        submission=asdict(replace(submission, resolved=pinned(graph))),
        policy=each.policy,
        demand=demand(graph.scaling),
        submitted_at=now(),
        cluster=dashboard.dashboard_url(),
        schedule=None,
    )


def _changes(schedule: Schedule) -> dict[str, Any]:
    """What was asked for, read as it was when it was submitted."""
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(schedule.config)
        changes = read_changes(config, list(schedule.sets))
    changes[SCALING] = schedule.scaling  # of the context that it was submitted in
    return changes


def main() -> int:
    """`python -m cluster.control.schedules.runs ID`: begin a run of the schedule that this process is part of."""
    try:
        schedule = this_job()
        if schedule is None:
            raise NotReadyError("this process is part of no job", "A schedule's own program starts this.")
        begin(schedule, sys.argv[1])
    except TrunklineError as error:
        print(f"ctl: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
