"""What is in use: artifacts that a run or an endpoint has named, so that garbage collection keeps them.

A use is a file in the store that its process renews. It is there before the user looks for the artifacts, and goes
when the work is done. What a run that was stopped or killed has named stays wanted until the run is as old as other
garbage: it can be gone on with. An endpoint's use ends with its process.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from cluster.core.errors import InputError
from cluster.core.storage.holder import TTL_SECONDS, Heartbeat, Holder, alive, let_go, new_owner, this_process
from cluster.core.storage.location import Location

FOLDER = ".uses"  # in the store's root


class Use(msgspec.Struct, frozen=True):
    """Who uses what. `targets`: `kind/fingerprint`, of what is there and of what is yet to be built."""

    holder: Holder
    targets: tuple[str, ...]
    resumable: bool
    renewed_at: float

    def counts(self, horizon: float) -> bool:
        """Whether it keeps its targets; of a run that has ended without an end, where it was alive after `horizon`."""
        return alive(self.holder) or (self.resumable and self.renewed_at >= horizon)


class Used:
    """The use of some artifacts by this process, from now until `end()`, or until the process ends."""

    def __init__(self, root: Location, targets: Iterable[str], *, resumable: bool) -> None:
        self.place = root / FOLDER
        self._targets = tuple(sorted(set(targets)))
        self._resumable = resumable
        self._owner = new_owner()
        # The same work has the same beginning: whoever finishes it removes what earlier attempts have left.
        self._work = hashlib.sha256("\n".join(self._targets).encode()).hexdigest()[:16]
        self._name = f"{self._work}-{self._owner}.json"
        self._write(this_process(self._owner, TTL_SECONDS))
        self._heartbeat = Heartbeat(self._beat, lambda: None)
        self._heartbeat.start()

    def _write(self, holder: Holder) -> None:
        use = Use(holder, self._targets, self._resumable, time.time())
        self.place.write_bytes(self._name, msgspec.json.encode(use))

    def _beat(self) -> bool:
        self._write(this_process(self._owner, TTL_SECONDS))
        return True

    def end(self, *, finished: bool) -> None:
        """Let go. Work that was not `finished` and can be gone on with keeps what it needs."""
        self._heartbeat.stop()
        if self._resumable and not finished:
            self._write(let_go(self._owner))
            return
        self.place.remove(self._name)
        for name, use in uses(self.place):
            if name.startswith(f"{self._work}-") and not alive(use.holder):
                self.place.remove(name)


@contextmanager
def using(root: Location, targets: Iterable[str], *, resumable: bool = True) -> Iterator[None]:
    """Keep artifacts from being collected while a run needs them, and after it, where it can be gone on with."""
    used = Used(root, targets, resumable=resumable)
    finished = False
    try:
        yield
        finished = True
    finally:
        used.end(finished=finished)


def uses(place: Location) -> Iterator[tuple[str, Use]]:
    """The uses that are written down, by their file's name."""
    for name in place.names():
        if not name.endswith(".json"):  # of a writer that was killed
            continue
        try:
            yield name, msgspec.json.decode(place.read_bytes(name), type=Use)
        except InputError:  # ended since it was listed
            continue
        except msgspec.DecodeError as error:  # torn by a power cut; what it kept is not known
            raise InputError(
                f"{place.url}/{name}: {error}", "Remove the file, if no run is to be gone on with, and try again."
            ) from None
