"""Pipelines as jobs of a Ray cluster, through Ray's own jobs API: submit, follow, stop, list, retry.

Everything is resolved on this side: the specs are checked before the cluster is touched, and the job gets a zip of the
code and of what was resolved. No secret travels: the environment of a job stands in its metadata for all to read.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import secrets
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cluster.control import clusters, dashboard, package
from cluster.control.joblog import JobLog
from cluster.core import provenance
from cluster.core.errors import InputError, JobError, NotReadyError, nearest
from cluster.core.graph import Graph, pinned
from cluster.core.identity import places
from cluster.core.storage.store import Store

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
JOBS_PATH = "/api/jobs/"
POLL_SECONDS = 0.5
LOST_SECONDS = 60.0  # without an answer, until a cluster is given up
# A stopped driver gets this long to save its work; afterwards Ray kills it.
STOP_SECONDS = 30
# Not secret, and the job finds neither the store nor its models nor its tracker without them.
CARRIED = (
    *("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "HF_HUB_OFFLINE"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_MODE"),
)
METADATA_KEY = "trunkline"
RESOLVED_FILE = "trunkline-job.json"  # in what travels: every field of every step, and the inputs by fingerprint


@dataclass(frozen=True)
class Job:
    """A job as the cluster tells of it; times are ISO 8601, empty where there is none yet."""

    id: str
    status: str
    entrypoint: str
    message: str
    exit_code: int | None
    started_at: str
    ended_at: str

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Submission:
    """What is submitted, and all that is needed to submit it again. `changes`: step to fields, and `scaling`.

    `resolved`: every field and the fingerprint of every input as they were found when it was first submitted, so that
    neither the job nor a retry looks an alias up again. `cwd`: the folder that relative paths are meant from.
    """

    script: str
    changes: dict[str, Any]
    name: str
    store: str
    cwd: str = field(default_factory=os.getcwd)
    resolved: dict[str, Any] = field(default_factory=dict)

    def graph(self) -> Graph:
        """Read the script and lay the changes over its specs, as the job will."""
        from cluster.core.pipeline import load_script

        if not os.path.isdir(self.cwd):
            raise InputError(f"{self.cwd}: no such folder", "The paths of the job are meant from there.")
        with chdir(self.cwd):
            return load_script(Path(self.script)).graph(Store(self.store), self.resolved or self.changes, self.name)


def submit(submission: Submission, hardware: str = "") -> str:
    """Check, pack and submit; return the job's id, made of the run's name and a few random letters.

    `hardware`: the workers' GPU (cluster/control/planning/hardware.py), to check what needs to fit there.
    Raises SpecError or InputError for what is wrong with the script, NotReadyError where there is no cluster, SpecError
    where training cannot fit into the workers' memory, as far as that is known: of `hardware`, or of this machine where
    the cluster is on it.
    """
    from cluster.control.planning.prediction import find_hardware, require_fit

    graph = submission.graph()
    submission = replace(submission, changes={}, resolved=pinned(graph))
    if "@" in os.environ.get("MLFLOW_TRACKING_URI", ""):
        raise InputError(
            "MLFLOW_TRACKING_URI: a job's environment is for all to read, and this may hold a password",
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster, and leave them out here.",
        )
    url = dashboard.dashboard_url()
    client = dashboard.job_client(url)
    store = Store(submission.store)
    require_fit(graph, store, find_hardware(hardware, graph.scaling))  # imports torch: comes last
    environment = {key: os.environ[key] for key in CARRIED if key in os.environ}
    environment |= provenance.passed_on() | {
        "TRUNKLINE_STORE": submission.store,
        "PYTHONUNBUFFERED": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        archive = Path(folder) / "job.zip"
        resolved = {RESOLVED_FILE: json.dumps(submission.resolved).encode()}
        script = package.pack(Path(submission.script), archive, store.local_root, resolved)
        root = Path(submission.script).resolve().parents[len(script.parents) - 1]
        environment[places.ORIGIN] = json.dumps({"cwd": submission.cwd, "root": str(root)})
        if script.parent != Path():  # beside the script, on every node: workers begin in the folder that travelled
            environment["PYTHONPATH"] = script.parent.as_posix()
        command = ["python", script.as_posix(), "--config", RESOLVED_FILE, "--name", graph.name]
        with dashboard.told(url):
            return str(
                client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=f"{id_of(graph.name)}-{secrets.token_hex(3)}",
                    runtime_env={"working_dir": str(archive), "env_vars": environment},
                    metadata={METADATA_KEY: json.dumps(asdict(submission))},
                )
            )


def id_of(run: str) -> str:
    """What the ids of the jobs of a run begin with, up to their last hyphen."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", run)


def retry(job_id: str) -> str:
    """Submit what a job was again, with the code as it is now and the fields and inputs as they were then; finished
    steps are found in the store."""
    metadata = _details(dashboard.dashboard_url(), job_id).metadata or {}
    if METADATA_KEY not in metadata:
        raise InputError(f"job {job_id} was not submitted by ctl", "Use `ctl submit SCRIPT`.")
    return submit(Submission(**json.loads(metadata[METADATA_KEY])))


def list_jobs() -> list[Job]:
    """All submitted jobs that the cluster remembers, oldest first."""
    return [_job(details) for details in _submitted(dashboard.dashboard_url())]


def get(job_id: str) -> Job:
    """One job. Raises InputError for an id that the cluster does not know."""
    return _job(_details(dashboard.dashboard_url(), job_id))


def logs(job_id: str) -> Iterator[str]:
    """What a job has written so far, in pieces."""
    url = dashboard.dashboard_url()
    details = _details(url, job_id)
    log = _log(url, job_id)
    yield from log.new(details.driver_agent_http_address, details.driver_node_id)
    yield log.rest()


def follow(job_id: str, write: Callable[[str], Any]) -> Job:
    """Pass a job's output to `write` as it comes, until the job ends; return how it ended."""
    url = dashboard.dashboard_url()
    _details(url, job_id)
    log = _log(url, job_id)
    pause, answered = threading.Event(), time.monotonic()
    while True:
        try:
            details = _details(url, job_id)  # before the log: of a job that has ended it is whole
            for text in log.new(details.driver_agent_http_address, details.driver_node_id):
                write(text)
            answered = time.monotonic()
            if (job := _job(details)).ended:
                write(log.rest())
                return job
        except NotReadyError as error:  # a busy cluster misses a deadline now and then, and the job goes on
            if time.monotonic() - answered > LOST_SECONDS:
                raise NotReadyError(
                    f"the cluster was lost while following job {job_id}: {error.message}", "See `ctl status`."
                ) from None
        pause.wait(log.pause_seconds)  # the jobs API sends no events


def stop(job_id: str) -> Job:
    """Ask a job to stop, and wait until it has; it gets time to save its work. One that has ended stays as it is."""
    url = dashboard.dashboard_url()
    if not _job(_details(url, job_id)).ended:
        with dashboard.told(url):
            dashboard.job_client(url).stop_job(job_id)
    return _wait(url, job_id, timeout_seconds=STOP_SECONDS + 30)


def failure(job: Job) -> JobError | None:
    """The error that a job's end amounts to, with the exit code of its driver; None where it succeeded."""
    if job.status == "SUCCEEDED":
        return None
    if job.status == "STOPPED":
        return JobError(f"job {job.id} was stopped", f"Go on with `ctl jobs retry {job.id}`.")
    code = job.exit_code if job.exit_code is not None and job.exit_code > 0 else None
    reason = f" with exit code {code}" if code else f": {job.message.strip()}" if job.message else ""
    error = JobError(f"job {job.id} failed{reason}", f"Fix it and resume with `ctl jobs retry {job.id}`.")
    if code:
        error.exit_code = code
    return error


def _log(url: str, job_id: str) -> JobLog:
    return JobLog(url, job_id, within=clusters.find().joinable)


def _wait(url: str, job_id: str, timeout_seconds: float) -> Job:
    deadline = time.monotonic() + timeout_seconds
    pause = threading.Event()
    while not (job := _job(_details(url, job_id))).ended:
        if time.monotonic() > deadline:
            raise JobError(f"job {job_id} is still {job.status} after {timeout_seconds:.0f} s", "See `ctl jobs show`.")
        pause.wait(POLL_SECONDS)  # the jobs API sends no events
    return job


def _submitted(url: str) -> list[Any]:
    found = [_parsed(listed) for listed in dashboard.request("GET", url, JOBS_PATH) if listed["submission_id"]]
    return sorted(found, key=lambda details: details.start_time or 0)


def _details(url: str, job_id: str) -> Any:
    found = dashboard.request("GET", url, JOBS_PATH + quote(job_id, safe="")) if job_id else None
    if found and found["submission_id"] == job_id:
        return _parsed(found)
    known = [details.submission_id for details in _submitted(url)]
    raise InputError(f"no job {job_id!r}", nearest(job_id, known) if known else "No job was submitted yet.")


def _parsed(found: dict[str, Any]) -> Any:
    from ray.job_submission import JobDetails

    return JobDetails(**found)


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        entrypoint=details.entrypoint,
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started_at=_time(details.start_time),
        ended_at=_time(details.end_time),
    )


def _time(milliseconds: int | None) -> str:
    if not milliseconds:
        return ""
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).isoformat(timespec="seconds")
