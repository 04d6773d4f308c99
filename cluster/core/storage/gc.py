"""Garbage collection: old artifacts that no alias and nobody at work needs, and work that was begun and given up.

What an artifact was made from is kept with it; what was made from an artifact does not keep it, unless it is kept
itself. Each thing goes under its own lease, after a last look at what is needed, so that a run that begins meanwhile
either finds it and keeps it, or builds it again.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from cluster.core.storage import trash
from cluster.core.storage.artifact import RECORD_FILE, Artifact
from cluster.core.storage.store import SHORT, Begun, Store
from cluster.core.storage.uses import FOLDER, uses


class Garbage(msgspec.Struct, frozen=True):
    """A folder of the store that may go, or begun work that is kept: its place below the root, and why."""

    place: str
    size_bytes: int
    reason: str
    kept: bool = False


def collect(store: Store, older_than_days: float, *, dry_run: bool) -> list[Garbage]:
    """Remove (or only list) what nothing needs and what has not changed for `older_than_days`.

    Kept are: artifacts under an alias, those that a run or an endpoint uses, those that a run needs to be gone on with,
    the ancestors of all these; whatever someone alive is building; and begun work that is younger.
    """
    return Collection(store, older_than_days).collect(dry_run=dry_run)


def resumable(store: Store, older_than_days: float) -> list[Garbage]:
    """Begun work that no one is doing at the moment, and that `collect` keeps: the same command goes on from it."""
    return Collection(store, older_than_days).resumable()


class Collection:
    """One collection: what may go by now. Records are read once, however often it looks."""

    def __init__(self, store: Store, older_than_days: float) -> None:
        self.store = store
        self.days = older_than_days
        self.horizon = datetime.datetime.now(datetime.UTC).timestamp() - older_than_days * 86400
        self._read: dict[str, Artifact] = {}

    def collect(self, *, dry_run: bool) -> list[Garbage]:
        found = [*self._half_removed(dry_run), *self._old_artifacts(dry_run), *self._abandoned(dry_run)]
        if not dry_run:
            for name, use in uses(self.store.root / FOLDER):
                if not use.counts(self.horizon):
                    self.store.root.remove(f"{FOLDER}/{name}")
        return found

    # -- what is needed -----------------------------------------------------------------------------------------

    def _artifacts(self) -> dict[str, Artifact]:
        """All artifacts by their target, `kind/fingerprint`."""
        places = self.store.places()
        for place in places:
            if place not in self._read and (artifact := self.store.read(place)):
                self._read[place] = artifact
        found = [self._read[place] for place in places if place in self._read]
        return {a.record.target: a for a in sorted(found, key=lambda a: a.record.started_at)}

    def _in_use(self) -> set[str]:
        found: set[str] = set()
        for _, use in uses(self.store.root / FOLDER):
            if use.counts(self.horizon):
                found.update(use.targets)
        return found

    def _kept(self, artifacts: dict[str, Artifact]) -> set[str]:
        """The targets of what is needed: aliased, in use, young, and all their ancestors."""
        young = (t for t, a in artifacts.items() if _timestamp(a.record.started_at) >= self.horizon)
        todo, kept = [*self.store.aliases().values(), *self._in_use(), *young], set[str]()
        while todo:
            target = todo.pop()
            if target not in kept:
                kept.add(target)
                if target in artifacts:
                    todo += [parent.target for parent in artifacts[target].record.parents.values()]
        return kept

    # -- what goes ----------------------------------------------------------------------------------------------

    def _old_artifacts(self, dry_run: bool) -> Iterator[Garbage]:
        # Uses are read after the records: a user writes down what it needs before it looks for it.
        artifacts = self._artifacts()
        kept = self._kept(artifacts)
        for target, artifact in artifacts.items():
            if target in kept:
                continue
            record = artifact.record
            if not dry_run:
                with self._alone(record.kind, record.fingerprint) as alone:
                    if not alone or target in self._kept(self._artifacts()):
                        continue
                    trash.discard(self.store.root, record.ref)
            why = f"older than {self.days:g} days, under no alias, not in use"
            yield Garbage(record.ref, record.size_bytes, why)

    def _abandoned(self, dry_run: bool) -> Iterator[Garbage]:
        """Work that was begun long ago, and folders that lack a record because an old collection was killed."""
        orphans = {begun.path for begun in self.store.orphans()}
        for begun in (*self.store.orphans(), *self.store.unfinished()):
            orphan = begun.path in orphans
            if not (orphan or self._is_given_up(begun)) or self._has_builder(begun):
                continue
            size = self._size(begun.path)
            if not dry_run:
                with self._alone(begun.kind, begun.fingerprint) as alone:
                    if not alone or not (orphan or self._is_given_up(begun)) or self._is_done(begun):
                        continue
                    trash.discard(self.store.root, begun.path)
            why = "half removed by a collection that was interrupted" if orphan else self._untouched()
            yield Garbage(begun.path, size, why)

    def _half_removed(self, dry_run: bool) -> Iterator[Garbage]:
        for path in trash.remains(self.store.root):
            size = self._size(path)
            if self.store.root.is_local:
                if not dry_run:
                    trash.clear(self.store.root, path)
            else:
                kind, _, folder = path.partition("/")
                whole = (self.store.root / path).exists(RECORD_FILE)  # killed before anything had gone
                if not dry_run:
                    with self._alone(kind, folder.rpartition("-")[2]) as alone:
                        if not alone:
                            continue
                        if whole:
                            self.store.root.remove(f"{trash.FOLDER}/{path}")
                        else:
                            trash.clear(self.store.root, path)
                if whole:
                    continue
            yield Garbage(path, size, "half removed by a collection that was interrupted")

    def resumable(self) -> list[Garbage]:
        return [
            Garbage(begun.path, self._size(begun.path), "can be gone on with: run the same command again", kept=True)
            for begun in self.store.unfinished()
            if not self._is_given_up(begun) and not self._has_builder(begun)
        ]

    # -- begun work ---------------------------------------------------------------------------------------------

    def _is_given_up(self, begun: Begun) -> bool:
        if (self.store.root / begun.path).changed_at() >= self.horizon:
            return False
        # A pipeline that runs may go on from it when it comes to that step.
        return (begun.kind, begun.fingerprint) not in {_short(target) for target in self._in_use()}

    def _has_builder(self, begun: Begun) -> bool:
        return self.store.lease(begun.kind, begun.fingerprint).holder() is not None

    def _is_done(self, begun: Begun) -> bool:
        place = self.store.root / begun.path
        return place.exists(RECORD_FILE) or not place.exists()

    def _untouched(self) -> str:
        return f"begun and not finished, untouched for {self.days:g} days; no run is working on it"

    def _size(self, path: str) -> int:
        return (self.store.root / path).total_bytes()

    @contextmanager
    def _alone(self, kind: str, fingerprint: str) -> Iterator[bool]:
        """Whether nobody builds a thing, nor begins to within this block."""
        lease = self.store.lease(kind, fingerprint)
        try:
            taken = lease.acquire()
        except OSError as error:
            if error.errno not in trash.FULL:
                raise
            yield lease.holder() is None  # a full disk has no room for a lease, and is what we are called for
            return
        try:
            yield taken
        finally:
            if taken:
                lease.release()


def _timestamp(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def _short(target: str) -> tuple[str, str]:
    kind, _, fingerprint = target.partition("/")
    return kind, fingerprint[:SHORT]
