"""Jobs that were lost with their head, or before they began, go on: on the cluster that is meant now."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from cluster.control import dashboard, onray
from cluster.control.durable import finding
from cluster.control.durable.records import JobRecord, records_of
from cluster.control.durable.shapes import LOST, Job
from cluster.control.submitting import hand_over
from cluster.core.clusters.meant import meant
from cluster.core.errors import gist
from cluster.core.storage.holder import TTL_SECONDS, is_seen

LOOK_SECONDS = 0.5


def recover(store: str | None, notice: Callable[[str], None]) -> list[str]:
    """Hand jobs that were lost with their head to the cluster that is meant, as far as they have attempts left.

    `notice` is told what is waited for.
    """
    records = [JobRecord(root, job_id) for root in finding.roots(store) for job_id in records_of(root).names()]
    await_signs(records, notice)
    return [record.id for record in records if _go_on(record)]


def recover_own(notice: Callable[[str], None]) -> tuple[list[str], dict[str, str]]:
    """The same of jobs that were submitted from this machine to the cluster that is meant, before it was started anew.

    Also the stores that could not be looked into, and why.
    """
    found: list[str] = []
    failed: dict[str, str] = {}
    stores: dict[str, list[JobRecord]] = {}
    for record in finding.submitted_here():
        stores.setdefault(record.root.url, []).append(record)
    if not stores:
        return found, failed
    url, context = dashboard.dashboard_url(), meant().name

    def is_ours(record: JobRecord) -> bool:
        last = None if record.ended() else next(iter(record.handed()[-1:]), None)
        return bool(last and (last.context == context if context else not last.context and last.cluster == url))

    for store, records in stores.items():
        try:
            ours = [record for record in records if is_ours(record)]
            await_signs(ours, notice)
            for record in ours:
                if _go_on(record):
                    found.append(record.id)
        except Exception as error:  # of any object store
            failed[store] = gist(str(error))
    return found, failed


def await_signs(records: Sequence[JobRecord], notice: Callable[[str], None]) -> None:
    """Wait until it is known of each job whether its process lives: it renews its lease, or the lease expires.

    A machine that lost its power, and is there again within a minute, leaves jobs that do not read LOST yet.
    """
    holders = {record: record.holder() for record in records}
    unsure = {record: holder for record, holder in holders.items() if holder and not is_seen(holder)}
    if not unsure:
        return
    seconds = min(TTL_SECONDS, max(holder.expires_at for holder in unsure.values()) - time.time())
    names = ", ".join(record.id for record in unsure)
    notice(f"Waiting for a sign of life of {names}, for {math.ceil(max(0.0, seconds))} s at most.")
    deadline, pause = time.monotonic() + seconds + LOOK_SECONDS, threading.Event()
    for record, holder in unsure.items():
        while record.holder() == holder and time.monotonic() < deadline:
            pause.wait(LOOK_SECONDS)  # a store sends no events


def _go_on(record: JobRecord) -> bool:
    """Hand a job to the cluster that is meant, where it was lost and has attempts left; whether that was done."""
    submitted, job = record.submitted(), record.job()
    if not (submitted and job and _is_gone(record, job) and len(record.handed()) <= submitted.policy.retries):
        return False
    record.event("recovered", "it was lost, and is handed to a cluster again", job.attempt)
    hand_over(record, submitted, number=len(record.handed()) + 1)
    return True


def _is_gone(record: JobRecord, job: Job) -> bool:
    """Whether no process runs a job, and none will: it is lost, or its cluster was before it began."""
    if job.status != "PENDING":
        return job.status == LOST
    handed = record.handed()
    told = onray.find(dashboard.dashboard_url(), handed[-1].ray_id) if handed else None
    return bool(handed) and (told is None or told.ended)  # a head that kept what it knew tells of it as failed
