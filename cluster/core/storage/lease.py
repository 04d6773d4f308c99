"""Leases: of many runs that want to build the same thing at once, one does, on a local disk and on S3 alike.

A lease is a chain of files `{n}.json`, each created exclusively; the highest is in force, and says who holds it or
that it was let go of. Whoever finds that its holder has died or let go takes over by creating `n+1`. Since the highest
file never goes, each number is won once: exclusive creation is all that decides, with no clock but the expiry's and no
lock server.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.core.errors import InputError, JobError
from cluster.core.storage.holder import TTL_SECONDS, Heartbeat, Holder, alive, let_go, new_owner, this_process
from cluster.core.storage.location import Location


class Lease:
    """The right to build one artifact: `acquire()` it, work, `release()`; it is renewed in the background."""

    def __init__(
        self, place: Location, ttl_seconds: float = TTL_SECONDS, lost: Callable[[], None] = lambda: None
    ) -> None:
        """`lost` is called, in another thread, where the lease is lost while it is held."""
        self.place = place
        self.ttl_seconds = ttl_seconds
        self.owner = new_owner()
        self.number = 0
        self.lost = lost
        self._lost = False
        self._heartbeat = Heartbeat(self._renew, self._tell, ttl_seconds, patience_seconds=ttl_seconds)

    def _numbers(self) -> list[int]:
        return sorted(int(name[:-5]) for name in self.place.names() if name[:-5].isdigit())

    def _read(self, number: int) -> Holder | None:
        """What a file says; None where whoever is above it has removed it since it was listed.

        One that says nothing was torn by a power cut, and its holder may be of any machine: it expires like others.
        """
        try:
            data = self.place.read_bytes(f"{number}.json")
        except InputError:
            return None
        try:
            return msgspec.json.decode(data, type=Holder)
        except msgspec.DecodeError:
            expires_at = self.place.changed_at() + self.ttl_seconds
            return Holder(owner="", host="", boot="", pid=0, started="", expires_at=expires_at)

    def holder(self) -> Holder | None:
        """Whoever holds the lease now, or None."""
        while numbers := self._numbers():
            if (holder := self._read(numbers[-1])) is not None:
                return holder if alive(holder) else None
        return None

    def acquire(self) -> bool:
        """Take the lease if no one alive holds it; False otherwise."""
        numbers = self._numbers()
        highest = numbers[-1] if numbers else 0
        if highest:
            holder = self._read(highest)
            if holder is None or alive(holder):  # none: removed since, so that someone is above it
                return False
        number = highest + 1
        # Not created, and yet ours: an object store did what we asked, and its answer was lost.
        if not (self.place.create(f"{number}.json", self._entry()) or self._is_ours(number)):
            return False
        numbers = self._numbers()
        if numbers[-1:] != [number]:  # we looked long ago: since then our number was won, let go of and removed
            self.place.remove(f"{number}.json")
            return False
        self.number = number
        for old in numbers[:-1]:
            self.place.remove(f"{old}.json")
        self._heartbeat.start()
        return True

    def _entry(self) -> bytes:
        return msgspec.json.encode(this_process(self.owner, self.ttl_seconds))

    def _is_ours(self, number: int) -> bool:
        holder = self._read(number)
        return holder is not None and holder.owner == self.owner

    def _in_force(self) -> bool:
        return self._numbers()[-1:] == [self.number]

    def _renew(self) -> bool:
        if not self._in_force():
            return False
        self.place.write_bytes(f"{self.number}.json", self._entry())
        return self._in_force()  # taken over between the look and the write

    def _tell(self) -> None:
        self._lost = True
        self.lost()

    @property
    def is_lost(self) -> bool:
        """Whether it is known, without a look, that the lease is lost."""
        return self._lost

    def check(self) -> None:
        """Raise JobError where the lease is lost: another run has taken over, or may have, unseen by us."""
        if error := self._heartbeat.error if self._lost else None:
            raise JobError(
                f"the lease {self.place.url} could not be renewed for {self.ttl_seconds:.0f} s: {error}",
                "Another run may be building the same by now. See that the store can be written, and run the same "
                "command again.",
            ) from error
        if self._lost or not self._in_force():
            raise JobError(f"the lease {self.place.url} was taken over by another run", "Run the same command again.")

    def release(self) -> None:
        """Let go, and say so in the file, which stays: its number must not be won twice."""
        self._heartbeat.stop()
        if self.number and self._in_force():
            self.place.write_bytes(f"{self.number}.json", msgspec.json.encode(let_go(self.owner)))
