"""In which store a job is: the one that is given or meant by default, or the one that it was submitted with here."""

from __future__ import annotations

from cluster.control.durable.records import JobRecord, all_jobs, is_id, records_of
from cluster.control.durable.shapes import Job
from cluster.core.home import home
from cluster.core.storage.location import Location
from cluster.core.storage.store import default_root


def _notes() -> Location:
    return Location(home() / "jobs")


def remember(job_id: str, root: Location) -> None:
    """Note the store of a job that was submitted from here."""
    _notes().write_bytes(job_id, root.url.encode())


def roots(store: str | None = None) -> list[Location]:
    """The stores to look into, the first one first."""
    if store:
        return [Location(store)]
    notes = _notes()
    noted = {notes.read_bytes(name).decode() for name in notes.names()}
    first = Location(default_root())
    return [first, *(Location(url) for url in sorted(noted - {first.url}))]


def find(job_id: str, store: str | None = None) -> JobRecord | None:
    """The record of a job, or None where no store has it."""
    if not is_id(job_id):
        return None
    notes = _notes()
    places = [Location(store or default_root())]
    of_schedule = job_id.rpartition(".")[0]  # the runs of a schedule are in its store
    if noted := next((name for name in (job_id, of_schedule) if name and notes.exists(name)), ""):
        places.insert(1 if store else 0, Location(notes.read_bytes(noted).decode()))
    for root in places:
        record = JobRecord(root, job_id)
        if record.submitted():
            return record
    return None


def submitted_here() -> list[JobRecord]:
    """The records of all jobs that were submitted from this machine, as far as their stores have them still."""
    notes = _notes()
    return [JobRecord(Location(notes.read_bytes(name).decode()), name) for name in notes.names()]


def jobs(store: str | None = None) -> list[Job]:
    """All jobs of the stores that are known here, oldest first."""
    found = {job.id: job for root in roots(store) for job in all_jobs(root)}
    return sorted(found.values(), key=lambda job: (job.submitted_at, job.id))


def known(store: str | None = None) -> list[str]:
    """The ids of all jobs."""
    return sorted({name for root in roots(store) for name in records_of(root).names()})
