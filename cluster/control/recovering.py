"""Jobs that were lost with their head, or before they began, go on: on the cluster that is meant now."""

from __future__ import annotations

from cluster.control import dashboard, onray
from cluster.control.durable import finding
from cluster.control.durable.records import JobRecord, records_of
from cluster.control.durable.shapes import LOST, Job
from cluster.control.submitting import hand_over
from cluster.core.clusters.meant import meant
from cluster.core.errors import gist


def recover(store: str | None = None) -> list[str]:
    """Hand jobs that were lost with their head to the cluster that is meant, as far as they have attempts left."""
    records = [JobRecord(root, job_id) for root in finding.roots(store) for job_id in records_of(root).names()]
    return [record.id for record in records if _go_on(record)]


def recover_own() -> tuple[list[str], dict[str, str]]:
    """The same of jobs that were submitted from this machine to the cluster that is meant, before it was started anew.

    Also the stores that could not be looked into, and why.
    """
    found: list[str] = []
    failed: dict[str, str] = {}
    records = finding.submitted_here()
    if not records:
        return found, failed
    url, context = dashboard.dashboard_url(), meant().name
    for record in records:
        if record.root.url in failed:  # one that does not answer is waited for once
            continue
        try:
            last = None if record.ended() else next(iter(record.handed()[-1:]), None)
            ours = last and (last.context == context if context else not last.context and last.cluster == url)
            if ours and _go_on(record):
                found.append(record.id)
        except Exception as error:  # of any object store
            failed[record.root.url] = gist(str(error))
    return found, failed


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
    return bool(handed) and onray.find(dashboard.dashboard_url(), handed[-1].ray_id) is None
