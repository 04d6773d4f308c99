"""Training checkpoints that a kill at any moment leaves usable, on any file system.

All ranks write their parts; rank 0 writes the list of files with their digests last, which makes the checkpoint one.
They are ours and not `ray.train.report`'s: that returns before its checkpoint is committed, knows no digests, and
keeps its list with the run, while these belong to the stage's output and serve whatever process comes next.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch.distributed as dist

from cluster.artifact import FileEntry
from cluster.errors import InputError
from cluster.location import Location

MANIFEST = "checkpoint.json"
_STEP = re.compile(r"step-(\d{8})$")
_RANK = re.compile(r"zero_pp_rank_(\d+)_")


class Manifest(msgspec.Struct, frozen=True):
    """The content of `checkpoint.json`: what the state is of, and every file of it."""

    step: int
    tokens: int
    layout: dict[str, int]
    files: dict[str, FileEntry]
    state: dict[str, Any] = {}


class Checkpoints:
    """The checkpoints of one run below `place`. All ranks call `save` and `load` together."""

    def __init__(self, place: Location, layout: dict[str, int], keep: int) -> None:
        self.place = place
        self.layout = layout
        self.keep = keep
        self.state: dict[str, Any] = {}  # what came with the checkpoint that was loaded

    def save(self, step: int, tokens: int, write: Callable[[Path], None], state: dict[str, Any] | None = None) -> None:
        """Let `write` put the state into a folder, and commit it as the checkpoint after `step` steps.

        `state`: what else a resumed run must know, a little plain JSON.
        """
        name = _name(step)
        if dist.get_rank() == 0:
            self.place.remove(name)  # what an attempt that died there had begun
        dist.barrier()
        with self._folder(name) as folder:
            write(folder)
            dist.barrier()
            own = {}
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                file = path.relative_to(folder).as_posix()
                if _owner(file) == dist.get_rank():
                    own[file] = FileEntry(path.stat().st_size, _digest(path))
                    if not self.place.is_local:
                        with path.open("rb") as source, self.place.open(f"{name}/{file}", "wb") as sink:
                            while chunk := source.read(1 << 20):
                                sink.write(chunk)
        parts: list[dict[str, FileEntry]] = [{}] * dist.get_world_size()
        dist.all_gather_object(parts, own)
        if dist.get_rank() == 0:
            files = {k: v for part in parts for k, v in part.items()}
            manifest = Manifest(step, tokens, self.layout, files, state or {})
            (self.place / name).write_bytes(MANIFEST, msgspec.json.encode(manifest))
            for old in self.steps()[self.keep :]:
                self._remove(old)

    def load(self, read: Callable[[Path], None]) -> tuple[int, int]:
        """Let `read` take up the newest checkpoint that is whole; return its step and tokens, 0 where there is none.

        Newer ones that are damaged are removed. Raises InputError for one of another layout.
        """
        chosen: list[Manifest | InputError | None] = [None]
        if dist.get_rank() == 0:
            try:
                chosen = [self._newest()]
            except InputError as error:
                chosen = [error]
        dist.broadcast_object_list(chosen)
        manifest = chosen[0]
        if isinstance(manifest, InputError):
            raise manifest
        if manifest is None:
            return 0, 0
        with self._folder(_name(manifest.step), fetch=True) as folder:
            read(folder)
            dist.barrier()
        self.state = manifest.state
        return manifest.step, manifest.tokens

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, newest first; some may be damaged."""
        found = [int(match[1]) for name in self.place.names() if (match := _STEP.match(name))]
        return sorted((step for step in found if self.place.exists(f"{_name(step)}/{MANIFEST}")), reverse=True)

    def whole(self, step: int) -> bool:
        """Whether every file of a committed checkpoint is there and has its digest."""
        folder = self.place / _name(step)
        try:
            manifest = self._manifest(step)
            return all(folder.digest(name) == entry.sha256 for name, entry in manifest.files.items())
        except (InputError, msgspec.DecodeError):
            return False

    def _manifest(self, step: int) -> Manifest:
        return msgspec.json.decode((self.place / _name(step)).read_bytes(MANIFEST), type=Manifest)

    def _newest(self) -> Manifest | None:
        for step in self.steps():
            if not self.whole(step):
                self._remove(step)
                continue
            manifest = self._manifest(step)
            if manifest.layout != self.layout:
                then, now = _text(manifest.layout), _text(self.layout)
                raise InputError(
                    f"the training checkpoint at step {step} was written with {then}, this run has {now}",
                    f"Go on with scaling {then}, or remove {self.place.url} to start again.",
                )
            return manifest
        return None

    def _remove(self, step: int) -> None:
        self.place.remove(f"{_name(step)}/{MANIFEST}")  # first: a half-removed checkpoint must not look whole
        self.place.remove(_name(step))

    @contextmanager
    def _folder(self, name: str, fetch: bool = False) -> Iterator[Path]:
        """The checkpoint as a local folder: itself, or a temporary copy where the place is an object store."""
        if self.place.is_local:
            yield self.place.path / name
            return
        with tempfile.TemporaryDirectory(prefix="trunkline-") as temporary:
            if fetch:
                (self.place / name).get(Path(temporary))
            yield Path(temporary)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _owner(file: str) -> int:
    """The rank that DeepSpeed has write a file; what no rank's number is in comes from rank 0."""
    match = _RANK.search(file)
    return int(match[1]) if match else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(layout: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in layout.items())
