"""Removing what a store keeps of jobs that ended long ago. A job that has not ended is kept, whatever its age."""

from __future__ import annotations

import datetime

from cluster.control.durable import packages
from cluster.control.durable.output import logs_of
from cluster.control.durable.records import END, JobRecord, records_of
from cluster.core.storage.location import Location


def prune(root: Location, older_than_days: float, *, dry_run: bool) -> list[str]:
    """The jobs that go: their records, their logs, and their code where no other job was submitted with it."""
    horizon = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=older_than_days)
    gone: dict[str, str] = {}
    for job_id in records_of(root).names():
        record = JobRecord(root, job_id)
        end, submitted = record.ended(), record.submitted()
        if end and datetime.datetime.fromisoformat(end.ended_at) < horizon:
            gone[job_id] = submitted.package if submitted else ""
    if not dry_run:
        for job_id in gone:
            logs_of(root, job_id).remove()
            place = JobRecord(root, job_id).place
            for name in [name for name in place.walk() if name != END]:
                place.remove(name)
            place.remove()  # its end last: half removed it is still one that has ended
        needed = {found.package for name in records_of(root).names() if (found := JobRecord(root, name).submitted())}
        for sha256 in set(gone.values()) - needed - {""}:
            packages.forget(root, sha256)
    return list(gone)
