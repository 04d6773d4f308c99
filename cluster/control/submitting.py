"""What is submitted: read, resolved and packed once on this side, written down in the store, and handed to a cluster.

The specs are checked before the cluster is touched. What travels is a zip of the code and of what was resolved. No
secret travels: the environment of a job stands in its metadata for all to read.
"""

from __future__ import annotations

import errno
import getpass
import hashlib
import json
import os
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from cluster.control import dashboard, onray, package
from cluster.control.durable import finding, packages
from cluster.control.durable.records import JobRecord
from cluster.control.durable.shapes import Policy, Submitted, now
from cluster.core import provenance
from cluster.core.clusters.meant import meant
from cluster.core.errors import InputError, TrunklineError
from cluster.core.graph import Graph, pinned
from cluster.core.identity import places
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.storage.store import Store

# Not secret, and the job finds neither the store nor its models nor its tracker without them.
CARRIED = (
    *("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "HF_HUB_OFFLINE"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_MODE"),
)
METADATA_KEY = "trunkline"
ASKED_KEY = "trunkline-asked"  # Submitted.asked, for whoever does not see the store
RESOLVED_FILE = "trunkline-job.json"  # in what travels: every field of every step, and the inputs by fingerprint
SUBMITTED_FILE = "trunkline-submitted.json"  # and what the process that runs the job must know
STOP_SECONDS = 40  # Ray waits so long for a job that stops; its program gets a little less
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


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

    @property
    def asked(self) -> str:
        """A digest of what is asked for, before anything is resolved: of the same id it must be the same."""
        asked = [Path(self.script).name, self.changes, self.resolved, self.name]
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Prepared:
    """A submission that was checked, resolved and packed: the zip of its code, and what runs it."""

    graph: Graph
    submission: Submission
    archive: Path
    script: Path
    environment: dict[str, str]

    @property
    def command(self) -> tuple[str, ...]:
        return ("python", self.script.as_posix(), "--config", RESOLVED_FILE, "--name", self.graph.name)


@contextmanager
def prepared(submission: Submission, hardware: str = "", *, needs_cluster: bool = True) -> Iterator[Prepared]:
    """Check, resolve and pack. Raises SpecError or InputError for what is wrong with the script, SpecError where
    training cannot fit into the workers' memory, as far as that is known: of `hardware`, or of this machine where the
    cluster is on it."""
    from cluster.control.planning.prediction import find_hardware, require_fit

    graph = submission.graph()
    if "@" in os.environ.get("MLFLOW_TRACKING_URI", ""):
        raise InputError(
            "MLFLOW_TRACKING_URI: a job's environment is for all to read, and this may hold a password",
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster, and leave them out here.",
        )
    store = Store(submission.store)
    resolved = replace(submission, changes={}, resolved=pinned(graph))
    environment = {key: os.environ[key] for key in CARRIED if key in os.environ}
    environment |= provenance.passed_on() | {
        "TRUNKLINE_STORE": submission.store,
        "PYTHONUNBUFFERED": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }
    if needs_cluster:
        dashboard.dashboard_url()  # a mistake comes first, the missing cluster second
    require_fit(graph, store, find_hardware(hardware, graph.scaling))  # imports torch: comes last
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        archive = Path(folder) / "job.zip"
        script = package.pack(Path(submission.script), archive, store.local_root)
        root = Path(submission.script).resolve().parents[len(script.parents) - 1]
        environment[places.ORIGIN] = json.dumps({"cwd": submission.cwd, "root": str(root)})
        if script.parent != Path():  # beside the script, on every node: workers begin in the folder that travelled
            environment["PYTHONPATH"] = script.parent.as_posix()
        yield Prepared(graph, resolved, archive, script, environment)


def demand(scaling: ScalingSpec) -> dict[str, float]:
    """What a pipeline asks of a cluster at most: its training workers, its rollout engines, or its data workers."""
    cpus = scaling.num_workers * scaling.cpus_per_worker + scaling.rollout_workers * scaling.cpus_per_rollout
    gpus = scaling.num_workers * scaling.gpus_per_worker + scaling.rollout_workers * scaling.gpus_per_rollout
    found = {"CPU": float(max(cpus, scaling.data_workers)), "GPU": float(gpus)}
    return {name: amount for name, amount in found.items() if amount}


def submitted_of(job_id: str, made: Prepared, asked: str, policy: Policy, retry_of: str = "") -> Submitted:
    """What is written down of a submission. Its code is put into the store."""
    return Submitted(
        id=job_id,
        name=made.graph.name,
        command=made.command,
        submission=asdict(made.submission),
        asked=asked,
        policy=policy,
        package=packages.digest(made.archive),
        environment=made.environment,
        demand=demand(made.graph.scaling),
        code=provenance.code(),
        user_code=provenance.user_code(),
        user=getpass.getuser(),
        host=socket.gethostname(),
        submitted_at=now(),
        cluster=dashboard.dashboard_url(),
        retry_of=retry_of,
    )


def write_down(record: JobRecord, submitted: Submitted, archive: Path) -> bool:
    """Write a submission and its code into the store; False where the id is a job already.

    A store that this machine cannot write, such as a cluster's own volume, gets it from the job itself.
    """
    try:
        finding.remember(record.id, record.root)
        packages.keep(record.root, archive)
        return record.create(submitted)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        return True


def hand_over(record: JobRecord, submitted: Submitted, archive: Path | None = None, number: int = 1) -> None:
    """Give a job to the cluster that is meant, for the `number`th time; nothing happens where another has done that.

    `archive`: its code; without it, it comes out of the store.
    """
    url = dashboard.dashboard_url()
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        fetched = Path(folder) / "kept.zip"
        if not archive:
            packages.fetch(record.root, submitted.package, fetched)
        ray_id = record.id
        try:
            handed = record.hand(url, number, meant().name)
            if handed is None:
                return
            ray_id = handed.ray_id
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
        give(url, submitted, archive or fetched, ray_id)


def give(url: str, submitted: Submitted, archive: Path, ray_id: str) -> None:
    """Have the cluster of a dashboard run a job, as Ray's own of an id."""
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        travelling = Path(folder) / "job.zip"
        shutil.copyfile(archive, travelling)
        resolved = json.dumps(submitted.submission["resolved"]).encode()
        packages.add(travelling, {RESOLVED_FILE: resolved, SUBMITTED_FILE: msgspec.json.encode(submitted)})
        command = entrypoint("python", "-m", "cluster.control.durable.supervisor", SUBMITTED_FILE)
        metadata = {METADATA_KEY: json.dumps(submitted.submission), ASKED_KEY: submitted.asked}
        onray.submit(url, ray_id, command, travelling, submitted.environment, metadata)


def entrypoint(*command: str) -> str:
    """A command as Ray is given it. In the place of Ray's shell: that one, stopped first, would leave its child to the
    first process of a pod, which waits for no child, and Ray would wait for the dead one until it loses patience."""
    return f"exec {shlex.join(command)}"


def require_same(job_id: str, known: str, asked: str) -> None:
    """Raise InputError where an id stands for something else already: for what was asked as `known`."""
    if known != asked:
        raise InputError(
            f"--id {job_id}: a job of this id was submitted with another script, other fields or another name",
            f"See `ctl jobs show {job_id}`, and choose another id.",
        )


def not_handed(record: JobRecord, error: TrunklineError) -> None:
    """Write down that a job which nobody will submit again was never begun."""
    with suppress(OSError):
        record.end("FAILED", None, f"it could not be handed to the cluster: {error.message}")
