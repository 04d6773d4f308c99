"""Pipelines as jobs of a Ray cluster: submit, follow, stop, list, retry.

A job's record is in the store that it writes to (cluster/control/durable), and says how it is doing whether or not its
cluster lives. Of jobs that are in no store the cluster itself is asked.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from cluster.control import dashboard, onray
from cluster.control.durable import finding
from cluster.control.durable.output import LogReader
from cluster.control.durable.records import JobRecord
from cluster.control.durable.shapes import ENDED, LOST, Job, Policy, Schedule, now
from cluster.control.schedules import times
from cluster.control.schedules.runs import scheduled
from cluster.control.submitting import (
    ASKED_KEY,
    METADATA_KEY,
    Submission,
    give,
    hand_over,
    not_handed,
    prepared,
    require_same,
    submitted_of,
    write_down,
)
from cluster.core.clusters.meant import is_hidden, require_shared
from cluster.core.errors import InputError, JobError, NotReadyError, TrunklineError, nearest
from cluster.core.storage.location import Location

__all__ = ["ENDED", "Job", "Submission", "submit"]

POLL_SECONDS, REMOTE_POLL_SECONDS = 0.1, 1.0
ASK_SECONDS = 2.0  # between two questions to the cluster about a job that no process has begun
UNSEEN_SECONDS = 60.0  # a job that the cluster runs and whose record stays empty writes to a store that we do not see
STOP_SECONDS = 10.0


def submit(
    submission: Submission,
    hardware: str = "",
    *,
    job_id: str = "",
    policy: Policy | None = None,
    retry_of: str = "",
    schedule: Schedule | None = None,
) -> str:
    """Check, resolve, pack, write down and hand over; return the job's id.

    With a `job_id` of the caller's it is done once, however often it is asked for. Raises SpecError or InputError for
    what is wrong with the script, NotReadyError where there is no cluster. `hardware`: the workers' GPU. With a
    `schedule` the job waits, and submits what was asked for whenever it is due.
    """
    policy = policy or Policy()
    require_shared(submission.store)
    if is_hidden(submission.store):
        if schedule:
            raise InputError(
                "--every and --cron: the runs of a schedule are told apart in the store, and only pods see this one",
                "Give the context a store that is a URL: `ctl context add` with --set store=s3://...",
            )
        return _submit_unseen(submission, hardware, job_id, policy, retry_of)
    root = Location(submission.store)
    asked = submission.asked + (f" {times.told(schedule)}" if schedule else "")
    if job_id and (known := JobRecord(root, job_id).submitted()):
        require_same(job_id, known.asked, asked)
        _ensure_handed(JobRecord(root, job_id))
        return job_id
    with prepared(submission, hardware) as made:
        record = JobRecord(root, job_id or new_id(made.graph.name))
        dashboard.request("GET", dashboard.dashboard_url(), "/api/version")  # before anything is written
        submitted = submitted_of(record.id, made, asked, policy, retry_of)
        if schedule:
            submitted = scheduled(submitted, schedule, made.graph)
        if not write_down(record, submitted, made.archive):  # another was quicker
            first = record.submitted()
            assert first
            require_same(record.id, first.asked, asked)
            return record.id
        try:
            hand_over(record, submitted, made.archive)
        except TrunklineError as error:
            if not job_id:
                not_handed(record, error)
            raise
    return record.id


def _submit_unseen(submission: Submission, hardware: str, job_id: str, policy: Policy, retry_of: str) -> str:
    """Submit where only the cluster sees the store: the job writes its record itself, and Ray keeps ids apart."""
    if job_id and onray.find(url := dashboard.dashboard_url(), job_id):
        require_same(job_id, (onray.details(url, job_id).metadata or {}).get(ASKED_KEY, ""), submission.asked)
        return job_id
    with prepared(submission, hardware) as made:
        job_id = job_id or new_id(made.graph.name)
        submitted = submitted_of(job_id, made, submission.asked, policy, retry_of)
        give(dashboard.dashboard_url(), submitted, made.archive, job_id)
    return job_id


def new_id(run: str) -> str:
    """An id for a job of a run."""
    return f"{id_of(run)}-{secrets.token_hex(3)}"


def id_of(run: str) -> str:
    """What the ids of the jobs of a run begin with, up to their last hyphen."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", run)


def _ensure_handed(record: JobRecord) -> None:
    """Hand a job over whose submitter died before it had."""
    submitted = record.submitted()
    assert submitted
    if not record.has_begun() and not record.ended() and not record.handed():
        hand_over(record, submitted)


def retry(job_id: str, *, as_submitted: bool = False, store: str | None = None) -> str:
    """Submit what a job was again, as a new one; finished steps are found in the store.

    Its fields and inputs are as they were. The code is as it is now or, `as_submitted`, as it was, out of the store.
    """
    record = finding.find(job_id, store)
    if record is None:
        metadata = onray.details(dashboard.dashboard_url(), job_id).metadata or {}
        if METADATA_KEY not in metadata:
            raise InputError(f"job {job_id} was not submitted by ctl", "Use `ctl submit SCRIPT`.")
        return submit(Submission(**json.loads(metadata[METADATA_KEY])))
    submitted = record.submitted()
    assert submitted
    if submitted.schedule:
        raise InputError(f"job {job_id} is a schedule", "Submit it again: `ctl submit` with --every or --cron.")
    submission = Submission(**submitted.submission)
    if not as_submitted:
        if not Path(submission.script).is_file():
            raise InputError(
                f"{submission.script}: no such file", "--as-submitted takes the code that is in the store."
            )
        return submit(submission, policy=submitted.policy, retry_of=job_id)
    again = JobRecord(record.root, new_id(submitted.name))
    renewed = msgspec.structs.replace(
        submitted, id=again.id, retry_of=job_id, submitted_at=now(), cluster=dashboard.dashboard_url()
    )
    finding.remember(again.id, again.root)
    again.create(renewed)
    hand_over(again, renewed)
    return again.id


def list_jobs(store: str | None = None) -> list[Job]:
    """All jobs of the stores known here, oldest first. No cluster is asked."""
    return finding.jobs(store)


def on_cluster() -> list[Job]:
    """The jobs that the cluster remembers, oldest first; of those in a store, as their records tell."""
    found = []
    for job in onray.jobs():
        record = finding.find(job.id)
        found.append((record.job() if record else None) or job)
    return found


def get(job_id: str, store: str | None = None) -> Job:
    """One job. Raises InputError for an id that neither a store nor the cluster knows."""
    record = finding.find(job_id, store)
    if record and (job := record.job()):
        return job
    return onray.job_of(_on_ray(job_id, store))


def _on_ray(job_id: str, store: str | None) -> Any:
    """What the cluster knows of a job that is in no store."""
    try:
        return onray.details(dashboard.dashboard_url(), job_id)
    except NotReadyError as error:
        known = finding.known(store)
        remedy = nearest(job_id, known) if known else f"No store has it, and {error.message}."
        raise InputError(f"no job {job_id!r}", remedy) from None


def logs(job_id: str, store: str | None = None) -> Iterator[str]:
    """What a job has written so far, in pieces."""
    record = finding.find(job_id, store)
    if record is None or not record.has_begun():
        _on_ray(job_id, store)
        yield from onray.logs(dashboard.dashboard_url(), job_id)
        return
    reader = LogReader(record.root, job_id)
    yield from reader.new()
    yield reader.rest()


def follow(job_id: str, write: Callable[[str], Any], store: str | None = None) -> Job:
    """Pass a job's output to `write` as it comes, until it has ended or is lost; return how."""
    record = finding.find(job_id, store)
    if record is None:
        _on_ray(job_id, store)
        return onray.follow(dashboard.dashboard_url(), job_id, write)
    reader, pause = LogReader(record.root, job_id), threading.Event()
    begun_at = asked_at = time.monotonic()
    while True:
        job = record.job()  # before the log: of a job that has ended it is whole
        assert job
        for text in reader.new():
            write(text)
        if job.ended or job.status == LOST:
            write(reader.rest())
            return job
        if job.status == "PENDING" and time.monotonic() - asked_at > ASK_SECONDS:
            asked_at = time.monotonic()
            if _unseen(record) and asked_at - begun_at > UNSEEN_SECONDS:
                return onray.follow(dashboard.dashboard_url(), job_id, write)
        pause.wait(POLL_SECONDS if record.root.is_local else REMOTE_POLL_SECONDS)  # a store sends no events


def _unseen(record: JobRecord) -> bool:
    """Whether the cluster runs a job that no process has begun, as far as our store shows. One that has ended there
    before it began, because it could not be set up, is written down as failed."""
    handed = record.handed()
    if not handed:
        return False
    url = dashboard.dashboard_url()
    job = onray.find(url, handed[-1].ray_id)
    told = record.job()
    if job is not None and job.ended and told and told.status == "PENDING":
        state = "STOPPED" if job.status == "STOPPED" else "FAILED"
        record.end(state, job.exit_code, job.message.strip())  # type: ignore[arg-type]
    return job is not None and job.status == "RUNNING"


def stop(job_id: str, store: str | None = None) -> Job:
    """Ask a job to stop, and wait until it has; it gets time to save its work. One that has ended stays as it is."""
    record = finding.find(job_id, store)
    if record is None:
        _on_ray(job_id, store)
        return onray.stop(dashboard.dashboard_url(), job_id)
    job = record.job()
    assert job
    if job.ended:
        return job
    if job.status != LOST and (handed := record.handed()):
        onray.stop(dashboard.dashboard_url(), handed[-1].ray_id)
    deadline, pause = time.monotonic() + STOP_SECONDS, threading.Event()
    while not job.ended and time.monotonic() < deadline and record.is_alive():
        pause.wait(POLL_SECONDS)
        job = record.job() or job
    if not job.ended:  # it was killed, or never began
        record.end("STOPPED", None, "it was stopped")
    return record.job() or job


def failure(job: Job) -> JobError | None:
    """The error that a job's end amounts to, with the exit code of its driver; None where it succeeded."""
    if job.status == "SUCCEEDED":
        return None
    if job.status == "STOPPED":
        return JobError(f"job {job.id} was stopped", f"Go on with `ctl jobs retry {job.id}`.")
    if job.status == LOST:
        return JobError(f"job {job.id} is lost: {job.message}", "Go on with `ctl jobs recover`, on any cluster.")
    code = job.exit_code if job.exit_code is not None and job.exit_code > 0 else None
    reason = f" with exit code {code}" if code else ""
    reason += f": {job.message.strip()}" if job.message.strip() else ""
    error = JobError(f"job {job.id} failed{reason}", f"Fix it and resume with `ctl jobs retry {job.id}`.")
    if code:
        error.exit_code = code
    return error
