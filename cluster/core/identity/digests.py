"""SHA-256 of files, remembered in the user's cache by path, size, time and inode, so that a plan reads none twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

CHUNK_BYTES = 1 << 20
REMEMBERED_BYTES = 1 << 12  # a smaller file is read as fast as it is looked up
SETTLED_SECONDS = 2.0  # a file that was written just now may be written again within the same tick of its clock
DATABASE = "digests.sqlite"
LOCK_SECONDS = 10.0


def cache_root() -> Path:
    """Where copies of remote artifacts and digests are kept: $TRUNKLINE_CACHE, else ~/.cache/trunkline."""
    return Path(os.environ.get("TRUNKLINE_CACHE") or Path.home() / ".cache" / "trunkline")


def sha256(path: Path) -> str:
    """SHA-256 (hex) of one file, read in pieces. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def many(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of regular files, in their order, from memory where they are as they were; empty where one is no such
    file or cannot be read."""
    with contextlib.closing(_open()) as memory:
        found = [_one(path, memory) for path in paths]
        with contextlib.suppress(sqlite3.Error):  # a memory that cannot be written costs time and nothing else
            memory.commit()
    return found


def _one(path: Path, memory: sqlite3.Connection) -> str:
    try:
        if not path.is_file():
            return ""
        status = path.stat()
        if status.st_size < REMEMBERED_BYTES:
            return sha256(path)
        key = (os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ino)
        with contextlib.suppress(sqlite3.Error):
            known = memory.execute("select sha256 from digests where (path, size, time, inode) = (?, ?, ?, ?)", key)
            for (digest,) in known:
                return str(digest)
        digest = sha256(path)
        if time.time() - status.st_mtime > SETTLED_SECONDS and path.stat().st_mtime_ns == status.st_mtime_ns:
            with contextlib.suppress(sqlite3.Error):
                memory.execute("insert or replace into digests values (?,?,?,?,?)", (*key, digest))
        return digest
    except OSError:
        return ""


def _open() -> sqlite3.Connection:
    try:
        root = cache_root()
        root.mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(root / DATABASE, timeout=LOCK_SECONDS)
        memory.execute(
            "create table if not exists digests (path text primary key, size int, time int, inode int, sha256 text)"
        )
    except (OSError, sqlite3.Error):  # a home that cannot be written, or a file system that cannot lock
        memory = sqlite3.connect(":memory:")
        memory.execute("create table digests (path text primary key, size int, time int, inode int, sha256 text)")
    return memory


SKIPPED = {"__pycache__", "node_modules", "site-packages", "dist-packages"}  # as the readers pass over; and hidden ones


def walk(root: Path, skip: Path | None = None) -> Iterator[str]:
    """Relative names of all files below a folder, links followed; without hidden folders, and without `skip`."""
    todo: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while todo:
        below, above = todo.pop()
        here = root / below
        status = here.stat()
        if (status.st_dev, status.st_ino) in above or (skip is not None and here.resolve() == skip):
            continue
        with os.scandir(here) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if not entry.is_dir():
                    yield name
                elif not entry.name.startswith(".") and entry.name not in SKIPPED:
                    todo.append((name, above | {(status.st_dev, status.st_ino)}))
