"""Training checkpoints: written in the background by every rank, whole or not at all, for any number of ranks to read.

Between two updates of the weights the state stands still; a thread copies it meanwhile and then writes the copy. A rank
writes its data, then its part: a small file that holds the digest. A checkpoint is one when every rank's part is there,
so that nobody has to commit it, and a kill at any moment leaves the one before. They are ours and not
`ray.train.report`'s: that knows no digests and keeps its list with the run, while these belong to the stage's output
and serve whatever process comes next.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from cluster.core import metrics
from cluster.core.errors import InputError
from cluster.core.storage.artifact import FileEntry
from cluster.core.storage.location import Location
from pipelines.stages.training.checkpoints.snapshots import PartFile, Snapshot, State

_FOLDER = re.compile(r"step-(\d{8})-(\d{3})")  # step and attempt: two attempts never write into one folder
_PART = re.compile(r"\d{5}-of-(\d{5})\.part")


class Part(msgspec.Struct, frozen=True):
    """One rank's part of a checkpoint, after `step` steps and `tokens` tokens."""

    step: int
    tokens: int
    file: FileEntry
    numbers: dict[str, dict[str, float]]  # of the optimizer's groups
    notes: dict[str, Any]  # what watches the run keeps here

    def encode(self) -> bytes:
        """As JSON, and in a second line the digest of it."""
        text = msgspec.json.encode(self)
        return text + b"\n" + hashlib.sha256(text).hexdigest().encode()

    @classmethod
    def decode(cls, data: bytes) -> Part:
        """Raises msgspec.DecodeError where it is not what was encoded."""
        text, _, digest = data.partition(b"\n")
        if digest != hashlib.sha256(text).hexdigest().encode():
            raise msgspec.DecodeError("the part does not have its digest")
        return msgspec.json.decode(text, type=cls)


SaveState = Callable[[Snapshot], dict[str, dict[str, float]]]  # copies a rank's tensors, returns the numbers
LoadState = Callable[[State, dict[str, Any]], None]  # takes up a state and its notes


class Checkpoints:
    """The checkpoints of one run below `place`. All ranks call `load`, and `save` after the same steps."""

    def __init__(self, place: Location, keep: int) -> None:
        self.place = place
        self.keep = keep
        self._stalled_seconds = 0.0
        self._writing_seconds: float | None = None
        self._attempt = 0
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._error: BaseException | None = None

    @property
    def writing(self) -> bool:
        """Whether this rank is still at its last part."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, step: int, tokens: int, save_state: SaveState, notes: dict[str, Any]) -> None:
        """Begin to write the state after `step` steps; `save_state` copies it, in a thread. Waits for the last."""
        began = time.monotonic()
        self.finish()
        self._copied.clear()
        work = (step, tokens, save_state, notes, dist.get_rank(), dist.get_world_size())
        self._thread = threading.Thread(target=self._write, args=work, name="checkpoint", daemon=True)
        self._thread.start()
        self._stalled_seconds += time.monotonic() - began

    def before_update(self) -> None:
        """Wait until the state is copied: the weights are about to change."""
        if self._thread and not self._copied.is_set():
            began = time.monotonic()
            self._copied.wait()
            self._stalled_seconds += time.monotonic() - began

    def figures(self) -> dict[str, Any]:
        """How long the loop has waited since it asked last, and how long the last checkpoint took to be written."""
        stalled, self._stalled_seconds = self._stalled_seconds, 0.0
        return {
            metrics.CHECKPOINT_STALL_SECONDS: round(stalled, 6),
            metrics.CHECKPOINT_WRITING_SECONDS: self._writing_seconds and round(self._writing_seconds, 6),
        }

    def finish(self) -> None:
        """Wait until this rank's part is written. Raises what kept it from being."""
        if self._thread:
            self._thread.join()
        if self._error:
            raise self._error

    def _write(
        self, step: int, tokens: int, save_state: SaveState, notes: dict[str, Any], rank: int, world_size: int
    ) -> None:
        began = time.monotonic()
        try:
            numbers = save_state(self._snapshot)
            self._copied.set()
            folder, name = self.place / _name(step, self._attempt), f"{rank:05d}-of-{world_size:05d}"
            with folder.open(f"{name}.safetensors", "wb") as file:
                entry = self._snapshot.write(file)
                if self.place.is_local:
                    file.flush()
                    os.fsync(file.fileno())
            part = Part(step, tokens, entry, numbers, notes)
            folder.write_bytes(f"{name}.part", part.encode())
            if rank == 0:
                self._prune()
        except BaseException as error:  # raised in the loop, by the next `finish`
            self._error = error
        finally:
            self._copied.set()
            self._writing_seconds = time.monotonic() - began

    def _prune(self) -> None:
        """Remove what is older than the newest `keep` whole ones. Ranks behind may still write the newest of all."""
        whole = self.whole()
        if len(whole) >= self.keep:
            for name in self._folders():
                if name < whole[self.keep - 1]:
                    self._remove(name)

    def load(self, load_state: LoadState) -> Part | None:
        """Let `load_state` take up the newest undamaged checkpoint, its state and its notes; return its first part.

        None where there is none. Newer ones that are damaged, and what dead attempts had begun, are removed.
        """
        told: list[Any] = [None]
        if dist.get_rank() == 0:
            folders = self._folders()
            self._attempt = 1 + max((int(_FOLDER.fullmatch(name)[2]) for name in folders), default=0)  # type: ignore[index]
            whole = self.whole()
            for name in set(folders) - set(whole):
                self._remove(name)
            told = [(whole, self._attempt)]
        dist.broadcast_object_list(told)
        whole, self._attempt = told[0]
        for name in whole:
            with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:  # for what comes from an object store
                if parts := self._undamaged(name, Path(folder)):
                    numbers = {group: found for part, _ in parts for group, found in part.numbers.items()}
                    with State([file for _, file in parts], numbers) as state:
                        load_state(state, parts[0][0].notes)
                    dist.barrier()
                    return parts[0][0]
            if dist.get_rank() == 0:
                self._remove(name)
        return None

    def whole(self) -> list[str]:
        """Names of the checkpoints whose parts are all there, newest first; some may be damaged."""
        return [name for name in self._folders() if self._parts(name)]

    def _folders(self) -> list[str]:
        return sorted((name for name in self.place.names() if _FOLDER.fullmatch(name)), reverse=True)

    def _parts(self, name: str) -> list[str]:
        """The parts of a checkpoint without their suffix, in the order of the ranks; none where some are missing."""
        found = [(file, match[1]) for file in self.place.names(name) if (match := _PART.fullmatch(file))]
        stems = [file.removesuffix(".part") for file, _ in found]
        return stems if found and len(found) == int(found[0][1]) else []

    def _undamaged(self, name: str, folder: Path) -> list[tuple[Part, PartFile]]:
        """The parts of a checkpoint, in the order of the ranks, and their files; none where a file is not what was
        written. Ranks share the work: each looks at its own part, where there are as many ranks as there were."""
        place, rank = self.place / name, dist.get_rank()
        told: list[Any] = [{}]
        if rank == 0:
            try:
                told = [{stem: Part.decode(place.read_bytes(f"{stem}.part")) for stem in self._parts(name)}]
            except (InputError, msgspec.DecodeError):  # damaged: the one before is taken
                told = [{}]
        dist.broadcast_object_list(told)
        parts = [
            (part, PartFile(place, f"{stem}.safetensors", part.file, folder)) for stem, part in sorted(told[0].items())
        ]
        sound = torch.tensor(int(bool(parts)))
        for _, file in parts[rank :: dist.get_world_size()]:
            try:
                file.local()
                file.verify()
            except InputError:
                sound *= 0
        dist.all_reduce(sound, dist.ReduceOp.MIN)
        return parts if sound else []

    def _remove(self, name: str) -> None:
        """Remove a checkpoint, the part of the first rank first: a half-removed one must not look whole."""
        for part in self._parts(name)[:1]:
            self.place.remove(f"{name}/{part}.part")
        self.place.remove(name)


def _name(step: int, attempt: int) -> str:
    return f"step-{step:08d}-{attempt:03d}"
