"""Garbage collection: what no alias, no descendant and no recent run holds on to."""

from __future__ import annotations

import datetime

import msgspec

from cluster.artifact import RECORD_FILE, Artifact
from cluster.store import Store


class Garbage(msgspec.Struct, frozen=True):
    """A thing that may go: an artifact's or an abandoned staging folder's place below the root, and why."""

    place: str
    size_bytes: int
    reason: str


def collect(store: Store, older_than_days: float, *, dry_run: bool) -> list[Garbage]:
    """Remove (or only list) artifacts older than `older_than_days` that nothing refers to, and abandoned work.

    Kept are: artifacts under an alias, their ancestors, and whatever a live lease is building.
    """
    artifacts = {a.record.ref: a for a in store.list()}
    by_print = {(a.kind, a.fingerprint): a for a in artifacts.values()}
    horizon = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=older_than_days)
    kept: set[str] = set()

    def keep(artifact: Artifact | None) -> None:
        if artifact is None or artifact.record.ref in kept:
            return
        kept.add(artifact.record.ref)
        for parent in artifact.record.parents.values():
            keep(by_print.get((parent.kind, parent.fingerprint)))

    for target in store.aliases().values():
        kind, _, fingerprint = target.partition("/")
        keep(by_print.get((kind, fingerprint)))
    for artifact in artifacts.values():
        if datetime.datetime.fromisoformat(artifact.record.started_at) >= horizon:
            keep(artifact)

    garbage = [
        Garbage(ref, a.record.size_bytes, f"older than {older_than_days:g} days, under no alias")
        for ref, a in artifacts.items()
        if ref not in kept
    ]
    garbage += _abandoned(store)
    if not dry_run:
        for item in garbage:
            # The record goes first: a half-removed artifact must not look finished.
            store.root.remove(f"{item.place}/{RECORD_FILE}")
            store.root.remove(item.place)
    return garbage


def _abandoned(store: Store) -> list[Garbage]:
    """Work that was begun and that no one alive is doing; running the pipeline again would go on from it."""
    found = []
    for begun in store.unfinished():
        if store.lease(begun.kind, begun.fingerprint).holder() is None:
            place = store.root / begun.path
            size = sum(place.size_bytes(name) for name in place.walk())
            found.append(Garbage(begun.path, size, "begun and not finished; no run is working on it"))
    return found
