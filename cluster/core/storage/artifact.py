"""Artifacts and their records: what was built, from what, by which code, and every digest of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from cluster.core.storage.location import Location

if TYPE_CHECKING:
    from pathlib import Path

RECORD_FILE = "artifact.json"


class Parent(msgspec.Struct, frozen=True):
    """A reference to an artifact that another was built from."""

    kind: str
    name: str
    fingerprint: str

    @property
    def ref(self) -> str:
        """As the artifact's record has it."""
        return f"{self.kind}/{self.name}-{self.fingerprint[:12]}"

    @property
    def target(self) -> str:
        """As the artifact's record has it."""
        return f"{self.kind}/{self.fingerprint}"


class Code(msgspec.Struct, frozen=True):
    """The code that built an artifact: the commit, and a hash of what was changed but not committed (or empty).

    Where the commit is `unknown`, `reason` says why.
    """

    commit: str
    dirty: str
    reason: str = ""
    repository: str = ""
    """Where the commit is from: the checkout's origin, without names and passwords, or its folder's name."""

    def __str__(self) -> str:
        if not self.commit or self.reason:
            return f"{self.commit or 'no commit'}{self.reason and f' ({self.reason})'}"
        return self.commit[:12] + (f" + changes {self.dirty}" if self.dirty else "")


class FileEntry(msgspec.Struct, frozen=True):
    """One file of an artifact."""

    size_bytes: int
    sha256: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `artifact.json`, written last and therefore the only sign of success."""

    kind: str
    name: str
    fingerprint: str
    revision: int
    spec: dict[str, Any]
    parents: dict[str, Parent]
    scaling: dict[str, Any]
    code: Code
    versions: dict[str, str]
    started_at: str
    duration_seconds: float
    metrics: dict[str, Any]
    files: dict[str, FileEntry]
    user_code: Code | None = None
    """The user's own checkout, where the pipeline's script is not part of Trunkline."""
    named: dict[str, str] = {}
    """Digests of the files and functions that the spec names, by field, as far as they were seen."""
    attempt: int = 0
    """The number of the lease under which it was committed; 0 in records of old."""

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files.values())

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.fingerprint[:12]}"

    @property
    def ref(self) -> str:
        """How a user names it: `kind/name-fingerprint12`."""
        return f"{self.kind}/{self.folder}"

    @property
    def target(self) -> str:
        """How the store's own files name it, whatever it is called: `kind/fingerprint`."""
        return f"{self.kind}/{self.fingerprint}"


class Home(Protocol):
    """What an artifact asks of the store that it is in."""

    root: Location

    def get(self, kind: str, fingerprint: str, name: str = "") -> Artifact: ...

    def local_copy(self, artifact: Artifact) -> Path: ...


class Artifact:
    """A finished artifact in a store. Picklable: carries its record, its location and where its store is."""

    def __init__(self, record: Record, location: Location, store: Home) -> None:
        self.record = record
        self.location = location
        self.store = store

    def __repr__(self) -> str:
        return f"Artifact({self.record.ref})"

    @property
    def kind(self) -> str:
        return self.record.kind

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def fingerprint(self) -> str:
        return self.record.fingerprint

    @property
    def spec(self) -> dict[str, Any]:
        return self.record.spec

    @property
    def metrics(self) -> dict[str, Any]:
        return self.record.metrics

    @property
    def store_url(self) -> str:
        return self.store.root.url

    def parent(self, name: str) -> Artifact:
        """The artifact that this one took as its input `name`."""
        parent = self.record.parents[name]
        return self.store.get(parent.kind, parent.fingerprint, parent.name)

    def local(self) -> Path:
        """The artifact as a local folder; from an object store, a copy in the cache, verified on arrival."""
        return self.store.local_copy(self)
