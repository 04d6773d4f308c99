"""Files and batches that an endpoint keeps, for each key in a folder of its own: what is not there is not anybody's.

`KEY/files/ID.json` tells of a file whose content is `ID.content`; `KEY/batches/ID.json` of a batch. Each is written
whole, content first, so that a kill leaves none by half. Who cancels a batch leaves a mark, which whoever answers it
finds: no two processes write the same file.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from cluster.core.specs.batches import Batches
from cluster.core.storage.location import Location
from serving.limits import Refused

NOBODY = "none"  # whose files those are of an endpoint without keys
WINDOW, WINDOW_SECONDS = "24h", 86_400
FILE_ID, BATCH_ID = re.compile(r"file-[0-9a-f]{24}"), re.compile(r"batch_[0-9a-f]{24}")
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
ENDED = ("failed", "completed", "expired", "cancelled")


class File(msgspec.Struct, kw_only=True, frozen=True):
    """A file, as OpenAI tells of it."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class Counts(msgspec.Struct, kw_only=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, kw_only=True):
    """A batch, as OpenAI tells of it."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: dict[str, Any] | None = None
    input_file_id: str
    completion_window: str = WINDOW
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = msgspec.field(default_factory=Counts)
    metadata: dict[str, str] | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


Record = TypeVar("Record", File, Batch)


class Kept:
    """What is kept for one key. Raises Refused for what is not there, or is too much."""

    def __init__(self, root: Path, key: str, limits: Batches) -> None:
        self.root, self.key, self.limits = root / key, key, limits
        self.files_folder, self.batches_folder = self.root / "files", self.root / "batches"
        for folder in (self.files_folder, self.batches_folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def files(self) -> list[File]:
        """Newest first."""
        return _newest(_read_all(self.files_folder, File))

    def file(self, file_id: str) -> File:
        found = _read(self.files_folder, file_id, File) if FILE_ID.fullmatch(file_id) else None
        if found is None:
            raise Refused(404, f"No such File object: {file_id[:64]}", "id")
        return found

    def content(self, file_id: str) -> Path:
        return self.files_folder / f"{file_id}.content"

    def check_room(self) -> None:
        """Raise Refused where a key may upload no more."""
        there = self.files()
        if len(there) >= self.limits.files or sum(file.bytes for file in there) >= self.limits.key_bytes:
            raise Refused(
                429,
                f"this key has {len(there)} files, and no room for more (endpoint.batches.files, key_bytes): "
                "delete some",
                kind="insufficient_quota",
                code="insufficient_quota",
                headers={"x-should-retry": "false"},
            )

    def partial(self) -> Path:
        """Where a file may be written before it is one."""
        return self.files_folder / f".{secrets.token_hex(12)}.partial"

    def add(self, partial: Path, filename: str, purpose: str, *, file_id: str = "", lifetime_seconds: int = 0) -> File:
        """Make a file of what was written. Of a given id it takes the place of the one that is there."""
        lifetime, now = lifetime_seconds or self.limits.days * WINDOW_SECONDS, int(time.time())
        found = File(
            id=file_id or f"file-{secrets.token_hex(12)}",
            bytes=partial.stat().st_size,
            created_at=now,
            expires_at=now + lifetime,
            filename=filename,
            purpose=purpose,
        )
        os.replace(partial, self.content(found.id))
        Location(str(self.files_folder)).write_bytes(f"{found.id}.json", msgspec.json.encode(found))
        return found

    def remove(self, file_id: str) -> None:
        """A batch that is to be answered from a file has it still."""
        self.file(file_id)
        (self.files_folder / f"{file_id}.json").unlink(missing_ok=True)
        self.content(file_id).unlink(missing_ok=True)

    def batches(self) -> list[Batch]:
        """Newest first."""
        return _newest(self._marked(batch) for batch in _read_all(self.batches_folder, Batch))

    def unfinished(self) -> list[Batch]:
        """Oldest first."""
        names = [path.stem for path in self.batches_folder.glob("*.input")]
        found = (_read(self.batches_folder, name, Batch) for name in names)
        return _newest(batch for batch in found if batch and not batch.ended)[::-1]

    def batch(self, batch_id: str) -> Batch:
        found = _read(self.batches_folder, batch_id, Batch) if BATCH_ID.fullmatch(batch_id) else None
        if found is None:
            raise Refused(404, f"No batch found with id '{batch_id[:64]}'.", "batch_id")
        return self._marked(found)

    def begin(self, endpoint: str, input_file_id: str, metadata: dict[str, str] | None) -> Batch:
        """Keep a batch of the requests that are in a file now, whatever becomes of it."""
        self.file(input_file_id)
        if len(self.unfinished()) >= self.limits.unfinished:
            raise Refused(
                429,
                f"{self.limits.unfinished} batches of this key are not finished (endpoint.batches.unfinished)",
                kind="rate_limit_error",
                code="batch_limit_exceeded",
                headers={"Retry-After": "60"},
            )
        now = int(time.time())
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}",
            endpoint=endpoint,
            input_file_id=input_file_id,
            created_at=now,
            expires_at=now + WINDOW_SECONDS,
            metadata=metadata,
        )
        os.link(self.content(input_file_id), self.input(batch.id))
        self.write(batch)
        return batch

    def write(self, batch: Batch) -> None:
        Location(str(self.batches_folder)).write_bytes(f"{batch.id}.json", msgspec.json.encode(batch))

    def input(self, batch_id: str) -> Path:
        return self.batches_folder / f"{batch_id}.input"

    def answers(self, batch_id: str) -> Path:
        return self.batches_folder / f"{batch_id}.answers"

    def cancel(self, batch_id: str) -> Batch:
        batch = self.batch(batch_id)
        if batch.ended:
            raise Refused(409, f"Cannot cancel a batch with status '{batch.status}'.", "batch_id")
        self._mark(batch_id).touch(mode=0o600)
        return self.batch(batch_id)

    def cancelled(self, batch_id: str) -> bool:
        return self._mark(batch_id).exists()

    @contextmanager
    def held(self, batch_id: str) -> Iterator[Batch | None]:
        """A batch, as long as no other process has it; None where one has, or where it has ended."""
        with (self.batches_folder / f"{batch_id}.lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            batch = self.batch(batch_id)
            yield None if batch.ended else batch

    def finish(self, batch: Batch) -> None:
        """Write a batch that has ended, and remove what it was answered from."""
        self.write(batch)
        for left in self.batches_folder.glob(f"{batch.id}.*"):
            if left.suffix != ".json":
                left.unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove what is kept no longer, and what was left of uploads that broke off."""
        now = time.time()
        for file in self.files():
            if file.expires_at is not None and file.expires_at <= now:
                self.remove(file.id)
        for batch in self.batches():
            if batch.ended and batch.created_at + self.limits.days * WINDOW_SECONDS <= now:
                (self.batches_folder / f"{batch.id}.json").unlink(missing_ok=True)
        for left in (*self.files_folder.glob(".*.partial"), *self.batches_folder.glob("*.*")):
            written_for_nobody = left.suffix != ".json" and not left.with_suffix(".json").exists()
            if written_for_nobody and left.stat().st_mtime + WINDOW_SECONDS < now:
                left.unlink(missing_ok=True)

    def _mark(self, batch_id: str) -> Path:
        return self.batches_folder / f"{batch_id}.cancel"

    def _marked(self, batch: Batch) -> Batch:
        """A batch as it is told: whoever answers it may not have seen yet that it is cancelled."""
        if not batch.ended and self.cancelled(batch.id):
            batch.status = "cancelling"
            batch.cancelling_at = int(self._mark(batch.id).stat().st_mtime)
        return batch


def _read_all(folder: Path, kind: type[Record]) -> Iterable[Record]:
    names = [path.stem for path in folder.glob("*.json")]
    return [found for name in names if (found := _read(folder, name, kind))]


def _read(folder: Path, name: str, kind: type[Record]) -> Record | None:
    try:
        return msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=kind)
    except FileNotFoundError:
        return None


def _newest(found: Iterable[Record]) -> list[Record]:
    return sorted(found, key=lambda each: (each.created_at, each.id), reverse=True)
