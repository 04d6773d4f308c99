"""What `ctl submit --dry-run` says: what would travel, which code, what would run and what is there already."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.control import dashboard
from cluster.control.durable import packages
from cluster.control.durable.records import JobRecord
from cluster.control.durable.shapes import Policy, Schedule
from cluster.control.planning.plan import make_plan
from cluster.control.schedules import times
from cluster.control.submitting import Submission, demand, prepared
from cluster.core import provenance
from cluster.core.errors import NotReadyError
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store

LARGEST = 3
FIRST = 3  # runs of a schedule


@dataclass(frozen=True)
class PreviewedStep:
    """A step, what it is called in the store, and why it would be built."""

    key: str
    built: bool
    ref: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Preview:
    """A submission that was not made."""

    steps: tuple[PreviewedStep, ...]
    root: str
    files: int
    archive_bytes: int
    package: str
    kept: bool
    largest: tuple[tuple[str, int], ...]
    code: str
    user_code: str
    command: str
    demand: dict[str, float]
    store: str
    cluster: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def shown_steps(self) -> Iterator[tuple[PreviewedStep, str]]:
        for step in self.steps:
            yield step, "; ".join(step.reasons)

    def kept_note(self) -> str:
        return ", which the store has already" if self.kept else ""

    def needs(self) -> str:
        return ", ".join(f"{amount:g} {name}s" for name, amount in self.demand.items()) or "nothing of its own"


def preview(
    submission: Submission, hardware: str, policy: Policy, job_id: str = "", schedule: Schedule | None = None
) -> Preview:
    """Check, resolve and pack as `submit` does, and say what came of it. Nothing is written, and no job is made.

    The cluster may be missing, which is said.
    """
    try:
        cluster = dashboard.dashboard_url()
        version = dashboard.request("GET", cluster, "/api/version")
        said = f"{cluster}, Ray {version['ray_version']}"
    except NotReadyError as error:
        said = f"none: {error}"
    with prepared(submission, hardware, needs_cluster=False) as made:
        store = Store(submission.store)
        root = Location(submission.store)
        with zipfile.ZipFile(made.archive) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: -entry.file_size)
        sha256 = packages.digest(made.archive)
        mine = provenance.user_code()
        notes = []
        if job_id and (known := JobRecord(root, job_id).job()):
            notes.append(f"{job_id} is a job already, and {known.status}: it would be followed, and nothing run")
        if schedule:
            notes.append(f"would run {times.told(schedule)}: {', '.join(times.first(schedule, FIRST))}")
        for job_id in policy.after:
            job = JobRecord(root, job_id).job()
            notes.append(f"waits for job {job_id}, which is {job.status if job else 'not in the store'}")
        return Preview(
            steps=tuple(
                PreviewedStep(
                    item.step.key,
                    item.artifact is not None,
                    item.artifact.record.ref
                    if item.artifact
                    else f"{item.step.kind}/{made.graph.name}-{item.step.fingerprint[:12]}",
                    tuple(item.reasons),
                )
                for item in make_plan(made.graph, store)
            ),
            root=str(Path(submission.script).resolve().parents[len(made.script.parents) - 1]),
            files=len(entries),
            archive_bytes=made.archive.stat().st_size,
            package=sha256,
            kept=packages.is_kept(root, sha256),
            largest=tuple((entry.filename, entry.file_size) for entry in entries[:LARGEST]),
            code=str(provenance.code()),
            user_code=f"{mine.repository} {mine}".strip() if mine else "the script is part of Trunkline",
            command=" ".join(made.command),
            demand=demand(made.graph.scaling),
            store=submission.store,
            cluster=said,
            notes=tuple(notes),
        )
