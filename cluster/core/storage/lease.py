"""Leases: of many runs that want to build the same thing at once, one does, on a local disk and on S3 alike.

A lease is a chain of files `{n}.json`, each created exclusively; the highest is in force, and says who holds it or
that it was let go of. Whoever finds that its holder has died or let go takes over by creating `n+1`. Since the highest
file never goes, each number is won once: exclusive creation is all that decides, with no clock but the expiry's and no
lock server. A commit has to win a number, too: either it comes first, or the takeover does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from cluster.core.errors import InputError, JobError
from cluster.core.storage.fence import Fence, numbers, taken_over
from cluster.core.storage.holder import TTL_SECONDS, Heartbeat, Holder, alive, let_go, new_owner, this_process
from cluster.core.storage.location import Location


class Entry(Holder, frozen=True, kw_only=True):
    """A file of the chain."""

    commit: str = ""
    """What its holder has the right to make appear, and may not have done yet; whoever comes next does it."""


class Lease:
    """The right to build one artifact: `acquire()` it, work, `commit()`, `release()`; renewed in the background."""

    def __init__(
        self,
        place: Location,
        ttl_seconds: float = TTL_SECONDS,
        lost: Callable[[], None] = lambda: None,
        appear: Callable[[bytes], None] = lambda data: None,
    ) -> None:
        """`lost` is called, in another thread, where the lease is lost while it is held and nothing is committed.

        `appear` does what a commit says. It may be called again for the same commit, by another process.
        """
        self.place = place
        self.ttl_seconds = ttl_seconds
        self.owner = new_owner()
        self.number = 0
        self.lost = lost
        self._appear = appear
        self._commit = ""
        self._committed = False
        self._lost = False
        self._lock = threading.Lock()  # the number changes in a commit
        self._heartbeat = Heartbeat(self._renew, self._tell, ttl_seconds, patience_seconds=ttl_seconds)

    @property
    def fence(self) -> Fence:
        """What keeps those from writing who write under this lease and have lost it."""
        return Fence(self.place, self.number, self.ttl_seconds)

    def _numbers(self) -> list[int]:
        return numbers(self.place)

    def _read(self, number: int) -> Entry | None:
        """What a file says; None where whoever is above it has removed it since it was listed.

        One that says nothing was torn by a power cut, and its holder may be of any machine: it expires like others.
        """
        try:
            data = self.place.read_bytes(f"{number}.json")
        except InputError:
            return None
        try:
            return msgspec.json.decode(data, type=Entry)
        except msgspec.DecodeError:
            expires_at = self.place.changed_at() + self.ttl_seconds
            return Entry(owner="", host="", boot="", pid=0, started="", expires_at=expires_at)

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
        commit = ""
        if highest:
            before = self._read(highest)
            if before is None or alive(before):  # none: removed since, so that someone is above it
                return False
            commit = before.commit
        number = highest + 1
        # Not created, and yet ours: an object store did what we asked, and its answer was lost.
        if not self._win(number, commit):
            return False
        self._heartbeat.start()
        try:
            self._finish()
        except BaseException:
            self.release()
            raise
        return True

    def _win(self, number: int, commit: str) -> bool:
        """Take a number, unless another has it or a higher one."""
        if not (self.place.create(f"{number}.json", self._entry(commit)) or self._is_ours(number)):
            return False
        found = self._numbers()
        if found[-1:] != [number]:  # we looked long ago: since then our number was won, let go of and removed
            self.place.remove(f"{number}.json")
            return False
        self.number, self._commit = number, commit
        for old in found[:-1]:
            self.place.remove(f"{old}.json")
        return True

    def commit(self, data: bytes) -> None:
        """Have what `data` says appear. Raises JobError, and nothing has happened, where another run has taken over.

        Once the next number is won nobody else can have it, and whoever comes after us finishes what we have begun.
        """
        self._advance(data.decode())
        self._finish()

    def renumber(self) -> None:
        """Hold on under the next number, as another attempt. Raises JobError where another run has taken over."""
        self._advance("")

    def _advance(self, commit: str) -> None:
        self.check()
        with self._lock:
            if not self._win(self.number + 1, commit):
                raise taken_over(self.place)
            self._committed = bool(commit)

    def _finish(self) -> None:
        """Do what was committed, by us or by a holder before us that died over it."""
        if self._commit:
            self._appear(self._commit.encode())
            self._commit = ""

    def _entry(self, commit: str) -> bytes:
        return _encoded(this_process(self.owner, self.ttl_seconds), commit)

    def _is_ours(self, number: int) -> bool:
        holder = self._read(number)
        return holder is not None and holder.owner == self.owner

    def _in_force(self) -> bool:
        return self._numbers()[-1:] == [self.number]

    def _renew(self) -> bool:
        with self._lock:
            if not self._in_force():
                return False
            self.place.write_bytes(f"{self.number}.json", self._entry(self._commit))
            return self._in_force()  # taken over between the look and the write

    def _tell(self) -> None:
        with self._lock:
            if self._committed:  # the work is done: whoever took over since then finishes it as we do
                return
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
            raise taken_over(self.place)

    def release(self) -> None:
        """Let go, and say so in the file, which stays: its number must not be won twice."""
        self._heartbeat.stop()
        if self.number and self._in_force():
            self.place.write_bytes(f"{self.number}.json", _encoded(let_go(self.owner), self._commit))


def _encoded(holder: Holder, commit: str) -> bytes:
    return msgspec.json.encode(Entry(**msgspec.structs.asdict(holder), commit=commit))
