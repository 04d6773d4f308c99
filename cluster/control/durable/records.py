"""The record of a job in the store: what was submitted, who runs it, how it is doing and how it ended.

`{store}/.jobs/records/ID/`: `submission.json` is created once and makes the id a key: the same id is the same job.
`lease/` says who runs it and is renewed as long as that process lives, so that nothing dead reads RUNNING; its number
is the attempt's. `state.json` says what it is at, `events/` what happened, and `end.json`, created once, how it ended.
No part of it needs a cluster.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from cluster.control.durable.shapes import (
    LOST,
    LOST_MESSAGE,
    End,
    Ended,
    Event,
    Handed,
    Job,
    State,
    Submitted,
    now,
)
from cluster.core.errors import InputError
from cluster.core.storage.fence import numbers
from cluster.core.storage.holder import Holder
from cluster.core.storage.lease import Lease
from cluster.core.storage.location import Location

FOLDER = ".jobs"  # in the store's root
SUBMISSION, STATE, END = "submission.json", "state.json", "end.json"
LEASE, EVENTS, HANDED = "lease", "events", "handed"
ID_VARIABLE = "TRUNKLINE_JOB"  # in a job's process: its id
STORE_VARIABLE = "TRUNKLINE_STORE"


def records_of(root: Location) -> Location:
    return root / FOLDER / "records"


def is_id(text: str) -> bool:
    """Whether something may be a job's id: it is the name of a folder."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]{0,199}", text))


class JobRecord:
    """One job's part of a store."""

    def __init__(self, root: Location, job_id: str) -> None:
        if not is_id(job_id):
            raise InputError(f"job id {job_id!r}: only letters, digits and . _ - are allowed", "Choose another --id.")
        self.root, self.id = root, job_id
        self.place = records_of(root) / job_id

    # -- written ------------------------------------------------------------------------------------------------

    def create(self, submitted: Submitted) -> bool:
        """Write down what is submitted; False where the id is a job already."""
        return self.place.create(SUBMISSION, msgspec.json.encode(submitted))

    def lease(self, ttl_seconds: float, lost: Any = lambda: None) -> Lease:
        """The right to run it: whoever holds it is the job's attempt of that number."""
        return Lease(self.place / LEASE, ttl_seconds, lost)

    def write_state(self, state: State) -> None:
        self.place.write_bytes(STATE, msgspec.json.encode(state))

    def hand(self, cluster: str, number: int = 1, context: str = "") -> Handed | None:
        """Note that it is given to a cluster for the `number`th time; None where another did or does that."""
        ray_id = self.id if number == 1 else f"{self.id}.{number}"
        handed = Handed(ray_id=ray_id, cluster=cluster, at=now(), context=context)
        made = (self.place / HANDED).create(f"{number:04d}.json", msgspec.json.encode(handed))
        return handed if made else None

    def event(self, kind: str, text: str, attempt: int) -> None:
        event = Event(at=now(), attempt=attempt, kind=kind, text=text)
        name = f"{time.time_ns() // 1000:016d}-{os.urandom(2).hex()}.json"
        (self.place / EVENTS).write_bytes(name, msgspec.json.encode(event))

    def end(self, state: Ended, exit_code: int | None, message: str, attempt: int = 0) -> bool:
        """Write down how it ended; False where that was told before."""
        submitted, before = self.submitted(), self.state()
        ended = End(
            state=state,
            attempt=attempt or (before.attempt if before else 0),
            exit_code=exit_code,
            message=message,
            submitted_at=submitted.submitted_at if submitted else "",
            started_at=before.started_at if before else "",
            ended_at=now(),
            entrypoint=" ".join(submitted.command) if submitted else "",
        )
        return self.place.create(END, msgspec.json.encode(ended))

    # -- read ---------------------------------------------------------------------------------------------------

    def _read(self, name: str, kind: Any) -> Any:
        try:
            return msgspec.json.decode(self.place.read_bytes(name), type=kind)
        except InputError:
            return None
        except msgspec.DecodeError as error:
            raise InputError(f"{self.place.url}/{name}: {error}", "It was damaged; remove it.") from None

    def submitted(self) -> Submitted | None:
        found: Submitted | None = self._read(SUBMISSION, Submitted)
        return found

    def state(self) -> State | None:
        found: State | None = self._read(STATE, State)
        return found

    def ended(self) -> End | None:
        found: End | None = self._read(END, End)
        return found

    def events(self) -> Iterator[Event]:
        for name in (self.place / EVENTS).names():
            if name.endswith(".json"):
                yield msgspec.json.decode((self.place / EVENTS).read_bytes(name), type=Event)

    def handed(self) -> list[Handed]:
        """The clusters that it was given to, the last one last."""
        place = self.place / HANDED
        return [msgspec.json.decode(place.read_bytes(name), type=Handed) for name in place.names() if "-" not in name]

    def has_begun(self) -> bool:
        """Whether a process has ever run it."""
        return bool(numbers(self.place / LEASE))

    def holder(self) -> Holder | None:
        """The process that runs it, and may still live."""
        return Lease(self.place / LEASE).holder()

    def is_alive(self) -> bool:
        """Whether a process runs it that may still live."""
        return self.holder() is not None

    def job(self) -> Job | None:
        """How it is doing; None where the store has no such job."""
        if end := self.ended():
            return self._told(end)
        submitted = self.submitted()
        if submitted is None:
            return None
        begun, lives, state = self.has_begun(), self.is_alive(), self.state()
        if end := self.ended():  # meanwhile
            return self._told(end)
        status, message = "PENDING", ""
        if begun and not lives:
            again = len(self.handed()) > (state.handed if state else 1)
            status, message = (
                ("PENDING", "it was lost, and handed to a cluster again") if again else (LOST, LOST_MESSAGE)
            )
        elif begun:
            status, message = (state.state, state.message) if state else ("WAITING", "")
        return Job(
            id=self.id,
            status=status,
            entrypoint=" ".join(submitted.command),
            message=message,
            exit_code=None,
            started_at=state.started_at if state else "",
            ended_at="",
            submitted_at=submitted.submitted_at,
            attempt=state.attempt if state else 0,
        )

    def _told(self, end: End) -> Job:
        return Job(
            id=self.id,
            status=end.state,
            entrypoint=end.entrypoint,
            message=end.message,
            exit_code=end.exit_code,
            started_at=end.started_at,
            ended_at=end.ended_at,
            submitted_at=end.submitted_at,
            attempt=end.attempt,
        )


def this_job() -> JobRecord | None:
    """The job that this process is part of, where it is one."""
    job_id, root = os.environ.get(ID_VARIABLE), os.environ.get(STORE_VARIABLE)
    return JobRecord(Location(root), job_id) if job_id and root else None


def all_jobs(root: Location) -> list[Job]:
    """All jobs of a store, oldest first. Read at the same time: an object store takes a while for each."""
    from concurrent.futures import ThreadPoolExecutor

    names = records_of(root).names()
    if root.is_local:
        found = [JobRecord(root, name).job() for name in names]
    else:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda name: JobRecord(root, name).job(), names))
    return sorted((job for job in found if job), key=lambda job: (job.submitted_at, job.id))
