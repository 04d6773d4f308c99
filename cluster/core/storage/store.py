"""The artifact store on fsspec: `{root}/{kind}/{name}-{fingerprint12}/`, committed last by `artifact.json`.

A stage writes to a staging place that keeps its half-finished work for the next attempt. Locally that is a folder
beside the artifacts, renamed on commit; on an object store it is the final place, which counts for nothing until
its `artifact.json` is there. Names that begin with a dot are the store's own: `.staging`, `.leases`, `.uses`, `.trash`,
`.aliases`.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster.core.clusters.meant import default_store
from cluster.core.errors import InputError, nearest
from cluster.core.identity.digests import cache_root
from cluster.core.storage import trash
from cluster.core.storage.artifact import RECORD_FILE, Artifact, FileEntry, Record
from cluster.core.storage.lease import Lease
from cluster.core.storage.location import PARTIAL, Location
from cluster.core.storage.uses import using

SHORT = 12
NAMES = ".names"  # kind/name: the fingerprint of what was built under another name, and when it was given this one
_FOLDER = re.compile(r"(?P<name>.+)-(?P<short>[0-9a-f]{12})$")


def default_root() -> str:
    """Where artifacts live unless told otherwise: $TRUNKLINE_STORE, else as the context says, else ./artifacts."""
    return os.environ.get("TRUNKLINE_STORE") or default_store() or os.path.abspath("artifacts")


@dataclass(frozen=True)
class Begun:
    """Work in progress, or left by a run that died: the place below the root that it is in."""

    kind: str
    fingerprint: str  # its first SHORT digits
    path: str


class Store:
    """All artifacts below one root, a local path or an fsspec URL."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Location(root or default_root())

    @property
    def local_root(self) -> Path | None:
        """The folder that the store is in; None on an object store."""
        return self.root.path.resolve() if self.root.is_local else None

    # -- finding ------------------------------------------------------------------------------------------------

    def _kinds(self) -> list[str]:
        return [kind for kind in self.root.names() if not kind.startswith(".")]

    def _folders(self, kind: str) -> Iterator[tuple[str, str]]:
        for folder in self.root.names(kind):
            if match := _FOLDER.match(folder):
                yield folder, match["short"]

    def _read(self, kind: str, folder: str) -> Artifact | None:
        place = self.root / kind / folder
        try:
            data = place.read_bytes(RECORD_FILE)
        except InputError:
            return None
        try:
            record = msgspec.json.decode(data, type=Record)
        except msgspec.DecodeError as error:
            raise InputError(f"{place.url}/{RECORD_FILE}: {error}", "Remove the folder and build it again.") from None
        return Artifact(record, place, self)

    def places(self) -> list[str]:
        """The folders of artifacts, finished or not, as `kind/folder`."""
        return [f"{kind}/{folder}" for kind in self._kinds() for folder, _ in self._folders(kind)]

    def read(self, place: str) -> Artifact | None:
        """The finished artifact in a folder, `kind/folder`."""
        kind, _, folder = place.partition("/")
        return self._read(kind, folder)

    def find(self, kind: str, fingerprint: str) -> Artifact | None:
        """The finished artifact with this fingerprint, whatever its name, or None."""
        for folder, short in self._folders(kind):
            if short == fingerprint[:SHORT]:
                artifact = self._read(kind, folder)
                if artifact is not None and artifact.fingerprint == fingerprint:
                    return artifact
        return None

    def get(self, kind: str, fingerprint: str, name: str = "") -> Artifact:
        """Like `find`, but raises InputError where there is none. With its `name` no folder is listed."""
        artifact = self._read(kind, f"{name}-{fingerprint[:SHORT]}") if name else None
        if artifact is None or artifact.fingerprint != fingerprint:
            artifact = self.find(kind, fingerprint)
        if artifact is None:
            raise InputError(f"{kind} {fingerprint[:SHORT]} is not in {self.root.url}", "Was it collected or moved?")
        return artifact

    def list(self, kind: str | None = None) -> list[Artifact]:
        """All finished artifacts, oldest first; of one kind, or of several (`conversations|synthetic`)."""
        kinds = kind.split("|") if kind else self._kinds()
        found = [self._read(k, folder) for k in kinds for folder, _ in self._folders(k)]
        return sorted((a for a in found if a is not None), key=lambda a: a.record.started_at)

    def resolve(self, ref: str, kind: str | None = None) -> Artifact:
        """Find an artifact by alias, `kind/folder`, folder, name or beginning of a fingerprint.

        `kind`: where to look when the reference does not say; several as `conversations|synthetic`.
        A name that several artifacts share (say, of one pipeline run twice) takes the newest of the kind written
        before it: `model/quickstart`. Raises InputError where nothing or more than one kind of thing matches.
        """
        aliases = self.aliases()
        if ref in aliases:
            target, _, print_ = aliases[ref].partition("/")
            return self.get(target, print_)
        named, _, rest = ref.rpartition("/")
        also = self._also(rest)
        matches = [
            a
            for a in self.list(named or kind)
            if rest in (a.name, a.record.folder)
            or (len(rest) >= 4 and a.fingerprint.startswith(rest))
            or a.fingerprint in also.get(a.kind, {})
        ]
        matches.sort(key=lambda a: max(a.record.started_at, also.get(a.kind, {}).get(a.fingerprint, "")))
        if not matches:
            known = sorted({a.record.ref for a in self.list()} | {a.name for a in self.list()} | set(aliases))
            remedy = nearest(ref, known) if known else "The store is empty: run a pipeline first."
            raise InputError(f"no artifact {ref!r} in {self.root.url}", remedy)
        if len({a.kind for a in matches}) > 1:
            raise InputError(
                f"{ref!r} may mean {', '.join(a.record.ref for a in matches)}", "Name one of them in full."
            )
        return matches[-1]

    # -- further names ----------------------------------------------------------------------------------------------

    def add_name(self, artifact: Artifact, name: str) -> bool:
        """Let an artifact that was built under one name be found under another, too: `kind/name`. Whether it is new."""
        if name == artifact.name or artifact.fingerprint in self._also(name).get(artifact.kind, {}):
            return False
        line = f"{artifact.fingerprint} {datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds')}\n"
        (self.root / NAMES / artifact.kind).write_bytes(name, line.encode())
        return True

    def _also(self, name: str) -> dict[str, dict[str, str]]:
        """By kind, the fingerprint that a further name stands for, with the time when it was given."""
        place, found = self.root / NAMES, {}
        for kind in place.names() if re.fullmatch(r"[\w.-]+", name) else []:
            if (place / kind).exists(name):
                print_, given = (place / kind).read_bytes(name).decode().split()
                found[kind] = {print_: given}
        return found

    # -- building -----------------------------------------------------------------------------------------------

    def lease(self, kind: str, fingerprint: str, lost: Callable[[], None] = lambda: None) -> Lease:
        """The right to build, or to remove, an artifact; `lost` is called where it is lost while it is held."""
        return Lease(self.root / ".leases" / f"{kind}-{fingerprint[:SHORT]}", lost=lost, appear=self.appear)

    def using(self, targets: Iterable[str]) -> AbstractContextManager[None]:
        """Keep artifacts (`kind/fingerprint`), there or yet to be built, and their ancestors from being collected."""
        return using(self.root, targets)

    def staging(self, kind: str, name: str, fingerprint: str) -> Location:
        """The place to build in. It is the same for every attempt, so that one goes on where another was killed."""
        if self.root.is_local:
            return self.root / ".staging" / f"{kind}-{fingerprint[:SHORT]}"
        return self.root / kind / f"{name}-{fingerprint[:SHORT]}"

    def clear_staging(self, kind: str, name: str, fingerprint: str) -> None:
        """Remove what an interrupted collection has left where an artifact is to be built. Only with its lease."""
        if not self.root.is_local:
            trash.clear(self.root, f"{kind}/{name}-{fingerprint[:SHORT]}")

    def unfinished(self) -> Iterator[Begun]:
        """What was begun and has no record yet, whether anyone is working on it or not."""
        if self.root.is_local:
            folders = [(name.rpartition("-")[0], f".staging/{name}") for name in self.root.names(".staging")]
            yield from (Begun(kind, path.rpartition("-")[2], path) for kind, path in folders if not self._done(path))
        else:
            half_removed = set(trash.remains(self.root))
            yield from (begun for begun in self._without_record() if begun.path not in half_removed)

    def orphans(self) -> Iterator[Begun]:
        """Folders in an artifact's place that have no record: what collections of old left when they were killed.

        On an object store, where work is begun in its final place, nothing tells them from it.
        """
        if self.root.is_local:
            yield from self._without_record()

    def _without_record(self) -> Iterator[Begun]:
        for kind in self._kinds():
            for folder, short in self._folders(kind):
                if not self._done(f"{kind}/{folder}"):
                    yield Begun(kind, short, f"{kind}/{folder}")

    def _done(self, path: str) -> bool:
        return (self.root / path).exists(RECORD_FILE)

    def commit(self, record: Record, staging: Location, lease: Lease | None = None) -> Artifact:
        """Digest every file of `staging`, write the record last, and move the whole to its place.

        With a lease it is an attempt's commit: where another has taken over, JobError is raised, and nothing has
        happened. The lease's number goes into the record.
        """
        for name in list(staging.walk()):
            if PARTIAL in name:  # of a writer that was killed
                staging.remove(name)
        measured = staging.measure(name for name in staging.walk() if name != RECORD_FILE)
        files = {name: FileEntry(size, digest) for name, (size, digest) in measured.items()}
        record = msgspec.structs.replace(record, files=files, attempt=lease.number if lease else 0)
        data = msgspec.json.format(msgspec.json.encode(record), indent=2)
        if lease:
            lease.commit(data)
        else:
            self.appear(data)
        return Artifact(record, self.root / record.kind / record.folder, self)

    def appear(self, data: bytes) -> None:
        """Let an artifact that is whole in its staging place appear, by its record. Done again, it changes nothing."""
        record = msgspec.json.decode(data, type=Record)
        staging = self.staging(record.kind, record.name, record.fingerprint)
        place = self.root / record.kind / record.folder
        if not self.root.is_local:
            staging.write_bytes(RECORD_FILE, data)
            return
        if not staging.exists() and (record.files or place.exists(RECORD_FILE)):
            return  # done, by whoever took over from us, or removed since
        staging.write_bytes(RECORD_FILE, data)
        if place.exists() and not place.exists(RECORD_FILE):  # an orphan
            trash.discard(self.root, f"{record.kind}/{record.folder}")
        place.path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging.path, place.path)

    # -- using --------------------------------------------------------------------------------------------------

    def local_copy(self, artifact: Artifact) -> Path:
        """A local folder with the artifact's files; a copy from an object store is verified before it is used."""
        if artifact.location.is_local:
            return artifact.location.path
        target = cache_root() / artifact.kind / artifact.record.folder
        if (target / RECORD_FILE).exists():
            return target
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        artifact.location.get(partial)
        if wrong := problems(Artifact(artifact.record, Location(partial), self)):
            raise InputError(f"{artifact.location.url} arrived damaged: {wrong[0]}", "Run it again.")
        try:
            os.replace(partial, target)
        except OSError:  # another process brought the same artifact meanwhile
            if not (target / RECORD_FILE).exists():
                raise
            shutil.rmtree(partial)
        return target

    # -- aliases ------------------------------------------------------------------------------------------------

    def aliases(self) -> dict[str, str]:
        """Alias to `kind/fingerprint`."""
        place = self.root / ".aliases"
        return {name: place.read_bytes(name).decode().strip() for name in place.names()}

    def set_alias(self, alias: str, artifact: Artifact) -> None:
        """Point `alias` (such as `chat@prod`) to an artifact, atomically."""
        if not re.fullmatch(r"[\w.@-]+", alias):
            raise InputError(f"alias {alias!r}: only letters, digits and . _ @ - are allowed")
        (self.root / ".aliases").write_bytes(alias, f"{artifact.kind}/{artifact.fingerprint}\n".encode())

    def remove_alias(self, alias: str) -> None:
        if alias not in self.aliases():
            raise InputError(f"no alias {alias!r}", nearest(alias, list(self.aliases()) or ["(none)"]))
        (self.root / ".aliases").remove(alias)


def problems(artifact: Artifact) -> list[str]:
    """What differs between an artifact's files and its record: missing, extra, or changed ones."""
    expected = artifact.record.files
    present = set(artifact.location.walk()) - {RECORD_FILE}
    measured = artifact.location.measure(name for name in expected if name in present)
    found = [f"{name}: not in the record" for name in sorted(present - expected.keys())]
    for name, entry in expected.items():
        if name not in present:
            found.append(f"{name}: missing")
        elif measured[name][1] != entry.sha256:
            found.append(f"{name}: digest differs")
    return found
