"""Jobs as a Ray cluster tells of them, through Ray's own jobs API. It forgets them with its head."""

from __future__ import annotations

import datetime
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import msgspec

from cluster.control import clusters, dashboard
from cluster.control.durable.shapes import Job
from cluster.control.joblog import JobLog
from cluster.core.errors import InputError, JobError, NotReadyError, nearest

JOBS_PATH = "/api/jobs/"
PACKAGES_PATH = "/api/packages/gcs/"
SUBMIT_SECONDS, UPLOAD_SECONDS = 60.0, 300.0
NOTHING: Mapping[str, str] = MappingProxyType({})
POLL_SECONDS = 0.5
LOST_SECONDS = 60.0  # without an answer, until a cluster is given up
# A stopped driver gets this long to save its work; afterwards Ray kills it.
STOP_SECONDS = 30


class RayJob(msgspec.Struct, frozen=True, kw_only=True):
    """What the jobs API says of a job, as far as it is wanted. Times are in milliseconds since 1970."""

    submission_id: str
    status: str
    entrypoint: str = ""
    message: str | None = None
    metadata: dict[str, str] | None = None
    driver_exit_code: int | None = None
    start_time: int | None = None
    end_time: int | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None


def submit(
    url: str,
    ray_id: str,
    entrypoint: str,
    archive: Path | None = None,
    environment: Mapping[str, str] = NOTHING,
    metadata: Mapping[str, str] = NOTHING,
) -> None:
    """Have a cluster run a command, in a folder with what a zip holds if there is one; nothing waits for it.

    Ray's own client does the same, after an import that takes longer, and waits for ever for a head that hangs.
    Raises NotReadyError where the cluster does not answer in time, JobError where it refuses.
    """
    runtime_env: dict[str, Any] = {"env_vars": dict(environment)}
    if archive:
        data = archive.read_bytes()
        name = f"_ray_pkg_{hashlib.sha1(data, usedforsecurity=False).hexdigest()}.zip"  # equal content is sent once
        if not dashboard.exists(url, PACKAGES_PATH + name):
            dashboard.request("PUT", url, PACKAGES_PATH + name, data=data, timeout_seconds=UPLOAD_SECONDS)
        runtime_env["working_dir"] = f"gcs://{name}"
    asked = {
        "entrypoint": entrypoint,
        "submission_id": ray_id,
        "runtime_env": runtime_env,
        "metadata": dict(metadata),
    }
    dashboard.request("POST", url, JOBS_PATH, body=asked, timeout_seconds=SUBMIT_SECONDS)


def jobs() -> list[Job]:
    """All submitted jobs that the cluster remembers, oldest first."""
    return [job_of(details) for details in _submitted(dashboard.dashboard_url())]


def find(url: str, ray_id: str) -> Job | None:
    """A job that a cluster remembers."""
    found = dashboard.request("GET", url, JOBS_PATH + quote(ray_id, safe=""))
    return job_of(_parsed(found)) if found and found["submission_id"] == ray_id else None


def details(url: str, job_id: str) -> RayJob:
    """What the cluster knows of a job. Raises InputError for an id that it does not know."""
    found = dashboard.request("GET", url, JOBS_PATH + quote(job_id, safe="")) if job_id else None
    if found and found["submission_id"] == job_id:
        return _parsed(found)
    known = [other.submission_id for other in _submitted(url)]
    raise InputError(f"no job {job_id!r}", nearest(job_id, known) if known else "No job was submitted yet.")


def logs(url: str, job_id: str) -> Iterator[str]:
    """What a job has written so far, in pieces."""
    found = details(url, job_id)
    log = _log(url, job_id)
    yield from log.new(found.driver_agent_http_address, found.driver_node_id)
    yield log.rest()


def follow(url: str, job_id: str, write: Callable[[str], Any]) -> Job:
    """Pass a job's output to `write` as it comes, until the job ends; return how it ended."""
    details(url, job_id)
    log = _log(url, job_id)
    pause, answered = threading.Event(), time.monotonic()
    while True:
        try:
            found = details(url, job_id)  # before the log: of a job that has ended it is whole
            for text in log.new(found.driver_agent_http_address, found.driver_node_id):
                write(text)
            answered = time.monotonic()
            if (job := job_of(found)).ended:
                write(log.rest())
                return job
        except NotReadyError as error:  # a busy cluster misses a deadline now and then, and the job goes on
            if time.monotonic() - answered > LOST_SECONDS:
                raise NotReadyError(
                    f"the cluster was lost while following job {job_id}: {error.message}", "See `ctl status`."
                ) from None
        pause.wait(log.pause_seconds)  # the jobs API sends no events


def stop(url: str, ray_id: str) -> Job:
    """Ask a job to stop, and wait until it has; one that has ended stays as it is."""
    if not job_of(details(url, ray_id)).ended:
        dashboard.request("POST", url, f"{JOBS_PATH}{quote(ray_id, safe='')}/stop", timeout_seconds=SUBMIT_SECONDS)
    deadline = time.monotonic() + STOP_SECONDS + 30
    pause = threading.Event()
    while not (job := job_of(details(url, ray_id))).ended:
        if time.monotonic() > deadline:
            raise JobError(f"job {ray_id} is still {job.status} after {STOP_SECONDS + 30} s", "See `ctl jobs show`.")
        pause.wait(POLL_SECONDS)  # the jobs API sends no events
    return job


def _log(url: str, job_id: str) -> JobLog:
    return JobLog(url, job_id, within=clusters.find().joinable)


def _submitted(url: str) -> list[RayJob]:
    found = [_parsed(listed) for listed in dashboard.request("GET", url, JOBS_PATH) if listed["submission_id"]]
    return sorted(found, key=lambda one: one.start_time or 0)


def _parsed(found: dict[str, Any]) -> RayJob:
    return msgspec.convert(found, RayJob)


def job_of(found: RayJob) -> Job:
    return Job(
        id=found.submission_id,
        status=found.status,
        entrypoint=found.entrypoint,
        message=found.message or "",
        exit_code=found.driver_exit_code,
        started_at=_time(found.start_time),
        ended_at=_time(found.end_time),
        submitted_at=_time(found.start_time),
    )


def _time(milliseconds: int | None) -> str:
    if not milliseconds:
        return ""
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).isoformat(timespec="seconds")
