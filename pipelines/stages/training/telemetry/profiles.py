"""Profiles of running training: a request that the run finds in its folder, and traces that it leaves there.

Nothing but files, on any file system: `ctl` needs no way into the workers, and a run that no one asks pays for one
look at its folder a log line. The traces are Chrome's trace format, which https://ui.perfetto.dev opens as they are.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster.control.durable import finding
from cluster.control.jobs import id_of
from cluster.core.errors import InputError, JobError, nearest
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store

STATE = ".train"  # below a stage's output while it trains
RUN_FILE = f"{STATE}/run.json"
REQUEST_FILE = f"{STATE}/profile.json"
FOLDER = "profiles"  # below the output, and then in the artifact
POLL_SECONDS = 0.5


class Run(msgspec.Struct, frozen=True):
    """What a training run says of itself in its folder, for whoever looks for it by name."""

    kind: str
    name: str
    fingerprint: str


class Request(msgspec.Struct, frozen=True):
    """Somebody wants a profile of the next so many steps."""

    id: str
    steps: int


class Profile(msgspec.Struct, frozen=True):
    """The content of FOLDER/ID.json, written when all traces are there: steps looked at, and each rank's trace."""

    first_step: int
    last_step: int
    traces: list[str]


@dataclass(frozen=True)
class Running:
    """A run that trains at the moment, and where."""

    run: Run
    place: Location

    @property
    def ref(self) -> str:
        return f"{self.run.kind}/{self.run.name}-{self.run.fingerprint[:12]}"


def announce(output: Location, run: Run) -> None:
    """Make a run be found by `find`, as long as it holds its lease."""
    output.write_bytes(RUN_FILE, msgspec.json.encode(run))


def running(store: Store) -> list[Running]:
    """The runs that train at the moment, by their leases."""
    found = []
    for folder in (store.root / begun.path for begun in store.unfinished()):
        if folder.exists(RUN_FILE):
            run = msgspec.json.decode(folder.read_bytes(RUN_FILE), type=Run)
            if store.lease(run.kind, run.fingerprint).holder():
                found.append(Running(run, folder))
    return sorted(found, key=lambda one: one.ref)


def find(store: Store, name: str) -> Running:
    """The running training of that name, `KIND/NAME`, or `KIND/NAME-FINGERPRINT`; of a job, its id will do.

    Raises InputError where there is none, or more than one.
    """
    there = running(store)
    found = [one for one in there if name in (one.run.name, f"{one.run.kind}/{one.run.name}", one.ref)]
    if not found:
        record = finding.find(name, store.root.url)
        submitted = record.submitted() if record else None
        job = id_of(submitted.name) if submitted else name.rpartition("-")[0]
        found = [one for one in there if id_of(one.run.name) == job]
    if not found:
        remedy = nearest(name, [one.run.name for one in there]) if there else "Nothing trains there at the moment."
        raise InputError(f"no training run {name!r} in {store.root.url}", remedy)
    if len(found) > 1:
        raise InputError(f"{name!r} may mean {', '.join(one.ref for one in found)}", "Name one of them in full.")
    return found[0]


def profile(store: Store, one: Running, steps: int, timeout_seconds: float) -> tuple[Profile, Location]:
    """Have a run profile its next `steps` steps; return the profile and the place where its traces are.

    Raises JobError where the run ends without it, or the time is over.
    """
    request = Request(uuid.uuid4().hex[:8], steps)
    index = f"{FOLDER}/{request.id}.json"
    one.place.write_bytes(REQUEST_FILE, msgspec.json.encode(request))
    deadline = time.monotonic() + timeout_seconds
    while True:
        at_work = store.lease(one.run.kind, one.run.fingerprint).holder() is not None
        artifact = None if at_work else store.find(one.run.kind, one.run.fingerprint)
        place = artifact.location if artifact else one.place
        if place.exists(index):
            return msgspec.json.decode(place.read_bytes(index), type=Profile), place
        if not at_work:
            raise JobError(f"{one.ref} ended before it could be profiled", "Ask earlier, or for fewer steps.")
        if time.monotonic() > deadline:
            one.place.remove(REQUEST_FILE)
            raise JobError(
                f"{one.ref} has no profile after {timeout_seconds:.0f} s",
                "It looks for requests at its log lines: lower scaling.log_every, or raise --timeout.",
            )
        time.sleep(POLL_SECONDS)  # file systems and object stores send no events


def copy_trace(place: Location, found: Profile, rank: int, target: Path) -> None:
    """Write a rank's trace to a file. Raises InputError where there is no such rank."""
    if rank >= len(found.traces):
        raise InputError(f"--rank {rank}: the run has {len(found.traces)} ranks, counted from 0")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(place.read_bytes(found.traces[rank]))
