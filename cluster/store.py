"""The artifact store on fsspec: `{root}/{kind}/{name}-{fingerprint12}/`, committed last by `artifact.json`.

A stage writes to a staging place that keeps its half-finished work for the next attempt. Locally that is a folder
beside the artifacts, renamed on commit; on an object store it is the final place, which counts for nothing until
its `artifact.json` is there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster.artifact import RECORD_FILE, Artifact, FileEntry, Record
from cluster.errors import InputError, nearest
from cluster.lease import Lease
from cluster.location import PARTIAL, Location

SHORT = 12
_FOLDER = re.compile(r"(?P<name>.+)-(?P<short>[0-9a-f]{12})$")


def default_root() -> str:
    """Where artifacts live unless told otherwise: $TRUNKLINE_STORE, else ./artifacts."""
    return os.environ.get("TRUNKLINE_STORE") or os.path.abspath("artifacts")


def cache_root() -> Path:
    """Where copies of remote artifacts are kept: $TRUNKLINE_CACHE, else ~/.cache/trunkline."""
    return Path(os.environ.get("TRUNKLINE_CACHE") or Path.home() / ".cache" / "trunkline")


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
        return Artifact(record, place, self.root.url)

    def find(self, kind: str, fingerprint: str) -> Artifact | None:
        """The finished artifact with this fingerprint, whatever its name, or None."""
        for folder, short in self._folders(kind):
            if short == fingerprint[:SHORT]:
                artifact = self._read(kind, folder)
                if artifact is not None and artifact.fingerprint == fingerprint:
                    return artifact
        return None

    def get(self, kind: str, fingerprint: str) -> Artifact:
        """Like `find`, but raises InputError where there is none."""
        artifact = self.find(kind, fingerprint)
        if artifact is None:
            raise InputError(f"{kind} {fingerprint[:SHORT]} is not in {self.root.url}", "Was it collected or moved?")
        return artifact

    def list(self, kind: str | None = None) -> list[Artifact]:
        """All finished artifacts, oldest first."""
        kinds = [kind] if kind else self._kinds()
        found = [self._read(k, folder) for k in kinds for folder, _ in self._folders(k)]
        return sorted((a for a in found if a is not None), key=lambda a: a.record.started_at)

    def resolve(self, ref: str, kind: str | None = None) -> Artifact:
        """Find an artifact by alias, `kind/folder`, folder, name or beginning of a fingerprint.

        `kind`: where to look when the reference does not say.
        A name that several artifacts share (say, of one pipeline run twice) takes the newest of the kind written
        before it: `model/quickstart`. Raises InputError where nothing or more than one kind of thing matches.
        """
        aliases = self.aliases()
        if ref in aliases:
            target, _, print_ = aliases[ref].partition("/")
            return self.get(target, print_)
        named, _, rest = ref.rpartition("/")
        matches = [
            a
            for a in self.list(named or kind)
            if rest in (a.name, a.record.folder) or (len(rest) >= 4 and a.fingerprint.startswith(rest))
        ]
        if not matches:
            known = sorted({a.record.ref for a in self.list()} | {a.name for a in self.list()} | set(aliases))
            remedy = nearest(ref, known) if known else "The store is empty: run a pipeline first."
            raise InputError(f"no artifact {ref!r} in {self.root.url}", remedy)
        if len({a.kind for a in matches}) > 1:
            raise InputError(
                f"{ref!r} may mean {', '.join(a.record.ref for a in matches)}", "Name one of them in full."
            )
        return matches[-1]

    # -- building -----------------------------------------------------------------------------------------------

    def lease(self, kind: str, fingerprint: str) -> Lease:
        return Lease(self.root / ".leases" / f"{kind}-{fingerprint[:SHORT]}")

    def staging(self, kind: str, name: str, fingerprint: str) -> Location:
        """The place to build in. It is the same for every attempt, so that one goes on where another was killed."""
        if self.root.is_local:
            return self.root / ".staging" / f"{kind}-{fingerprint[:SHORT]}"
        return self.root / kind / f"{name}-{fingerprint[:SHORT]}"

    def unfinished(self) -> Iterator[Begun]:
        """What was begun and has no record yet, whether anyone is working on it or not."""
        if self.root.is_local:
            folders = [(name.rpartition("-")[0], f".staging/{name}") for name in self.root.names(".staging")]
        else:
            folders = [(kind, f"{kind}/{name}") for kind in self._kinds() for name, _ in self._folders(kind)]
        for kind, path in folders:
            if not (self.root / path).exists(RECORD_FILE):
                yield Begun(kind, path.rpartition("-")[2], path)

    def commit(self, record: Record, staging: Location) -> Artifact:
        """Digest every file of `staging`, write the record last, and move the whole to its place."""
        for name in list(staging.walk()):
            if PARTIAL in name:  # of a writer that was killed
                staging.remove(name)
        files = {n: FileEntry(staging.size_bytes(n), staging.digest(n)) for n in staging.walk() if n != RECORD_FILE}
        record = msgspec.structs.replace(record, files=files)
        place = self.root / record.kind / record.folder
        data = msgspec.json.format(msgspec.json.encode(record), indent=2)
        staging.write_bytes(RECORD_FILE, data)
        if self.root.is_local:
            place.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging.path, place.path)
        return Artifact(record, place, self.root.url)

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
        if wrong := problems(Artifact(artifact.record, Location(partial), artifact.store_url)):
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
    present = set(artifact.location.walk()) - {RECORD_FILE}
    found = [f"{name}: not in the record" for name in sorted(present - artifact.record.files.keys())]
    for name, entry in artifact.record.files.items():
        if name not in present:
            found.append(f"{name}: missing")
        elif artifact.location.digest(name) != entry.sha256:
            found.append(f"{name}: digest differs")
    return found
