"""When a job may begin: after the jobs that it waits for, and when its share of the cluster is free.

Of the jobs that wait for one cluster those of the highest priority go first, then those whose user holds the least of
it, then the oldest. Each waiting job works this out for itself from the records in the store; a lease keeps two from
taking the same room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from cluster.control.durable.records import JobRecord, Submitted
from cluster.core.errors import JobError
from cluster.core.storage.location import Location

POLL_SECONDS = 2.0
REMOTE_POLL_SECONDS = 20.0  # each look at an object store is some requests


class Turn:
    """The turn of one job."""

    def __init__(self, root: Location, submitted: Submitted, wait: Callable[[str, bool], None]) -> None:
        """`wait` is told what is waited for, whenever that changes, and whether the job has its share already."""
        self.root, self.submitted, self._tell = root, submitted, wait
        self._told = ""

    def take(self, stopping: threading.Event) -> None:
        """Return when the job may begin, or is to stop. Raises JobError where it never may."""
        pause = POLL_SECONDS if self.root.is_local else REMOTE_POLL_SECONDS
        for reason in (self._reason_of_others,):
            while not stopping.is_set() and (why := reason()):
                if why != self._told:
                    self._told = why
                    self._tell(why, False)
                stopping.wait(pause)  # a store sends no events

    def _reason_of_others(self) -> str:
        """What is waited for of the jobs that come before; empty where all have succeeded."""
        for job_id in self.submitted.policy.after:
            job = JobRecord(self.root, job_id).job()
            if job is None:
                raise JobError(f"job {job_id}, which this one comes after, is not in the store")
            if job.status in ("FAILED", "STOPPED"):
                raise JobError(
                    f"job {job_id}, which this one comes after, has {_how(job.status)}", "Submit both again."
                )
            if job.status != "SUCCEEDED":
                return f"for job {job_id}, which is {job.status}"
        return ""


def _how(status: str) -> str:
    return "failed" if status == "FAILED" else "been stopped"
