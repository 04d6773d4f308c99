"""Leases: of many runs that want to build the same thing at once, one does, on a local disk and on S3 alike.

A lease is a chain of files `{n}.json`, each created exclusively; the highest is in force. Whoever finds that its
holder has died (a process of this host that is gone, or another's expiry that has passed) takes over by creating `n+1`:
exclusive creation lets only one win, with no clock but the expiry's and no lock server.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from pathlib import Path

import msgspec

from cluster.errors import InputError, JobError
from cluster.location import Location

TTL_SECONDS = 60.0


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lease, as written into its file."""

    owner: str
    host: str
    boot: str
    pid: int
    started: str
    expires_at: float


def _boot() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else ""


def _started(pid: int) -> str:
    """Start time of a process in clock ticks, so that a reused pid is not mistaken for the holder; empty if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if stat[0] == "Z" else stat[19]


def alive(holder: Holder) -> bool:
    """Whether the holder may still be at work."""
    if (holder.host, holder.boot) == (socket.gethostname(), _boot()) and Path("/proc").exists():
        # Whatever the expiry: a laptop that wakes up finds every lease expired, and nobody has had the time to renew.
        return _started(holder.pid) == holder.started
    return holder.expires_at >= time.time()


class Lease:
    """The right to build one artifact: `acquire()` it, work, `release()`; it is renewed in the background."""

    def __init__(self, place: Location, ttl_seconds: float = TTL_SECONDS) -> None:
        self.place = place
        self.ttl_seconds = ttl_seconds
        self.owner = uuid.uuid4().hex
        self.number = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._lost = False

    def _numbers(self) -> list[int]:
        return sorted(int(name[:-5]) for name in self.place.names() if name[:-5].isdigit())

    def holder(self) -> Holder | None:
        """Whoever holds the lease now, or None."""
        numbers = self._numbers()
        if not numbers:
            return None
        try:
            holder = msgspec.json.decode(self.place.read_bytes(f"{numbers[-1]}.json"), type=Holder)
        except InputError:  # released between listing and reading
            return None
        return holder if alive(holder) else None

    def _entry(self) -> bytes:
        pid = os.getpid()
        return msgspec.json.encode(
            Holder(self.owner, socket.gethostname(), _boot(), pid, _started(pid), time.time() + self.ttl_seconds)
        )

    def acquire(self) -> bool:
        """Take the lease if no one alive holds it; False otherwise."""
        numbers = self._numbers()
        if self.holder() is not None:
            return False
        number = numbers[-1] + 1 if numbers else 1
        if not self.place.create(f"{number}.json", self._entry()):
            return False
        self.number = number
        self._thread.start()
        return True

    def _renew(self) -> None:
        while not self._stop.wait(self.ttl_seconds / 3):
            if self._numbers()[-1:] != [self.number]:
                self._lost = True
                return
            self.place.write_bytes(f"{self.number}.json", self._entry())

    def check(self) -> None:
        """Raise JobError where another run has taken over: its machine saw no renewal for longer than the expiry."""
        if self._lost or self._numbers()[-1:] != [self.number]:
            raise JobError(f"the lease {self.place.url} was taken over by another run", "Run the same command again.")

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        for number in self._numbers():  # ascending: ours, which keeps the others out, goes last
            if number <= self.number:
                self.place.remove(f"{number}.json")
