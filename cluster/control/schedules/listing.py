"""The schedules of the stores that are known here: when they are due, and how their last run went."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from cluster.control.durable import finding
from cluster.control.durable.records import JobRecord, records_of
from cluster.control.durable.shapes import LOST
from cluster.control.schedules import times
from cluster.control.schedules.runs import last_run


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it is told."""

    id: str
    when: str
    status: str
    next: str
    """ISO 8601; empty where it has ended or is lost."""
    last: str
    """The job that was its last run; empty where there was none."""
    last_status: str

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


def schedules(store: str | None = None) -> list[Listed]:
    """All schedules, by their ids; those that have ended, too."""
    now = datetime.datetime.now(datetime.UTC)
    found = {}
    for root in finding.roots(store):
        for name in records_of(root).names():
            record = JobRecord(root, name)
            submitted, job = record.submitted(), None
            if submitted and submitted.schedule and (job := record.job()):
                begun = times.parsed(submitted.submitted_at)
                following = times.following(submitted.schedule, begun, now)
                waits = following and not job.ended and job.status != LOST
                last = last_run(root, name)
                found[name] = Listed(
                    id=name,
                    when=times.told(submitted.schedule),
                    status=job.status,
                    next=following.isoformat(timespec="seconds") if following and waits else "",
                    last=last.id if last else "",
                    last_status=last.status if last else "",
                )
    return [found[name] for name in sorted(found)]
