"""Arrays in files of an artifact: memory-mapped on a local disk, read by ranges from an object store.

What is read from an object store goes through blocks of fixed size on the local disk, least recently used first out, so
that a store larger than any disk can be trained on. Processes of one machine share them: a block is written aside and
renamed, and one that another process has removed is fetched again.
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cluster.core.errors import InputError
from cluster.core.storage.location import PARTIAL, Location

BLOCK_BYTES = 1 << 18  # a request takes tens of milliseconds, and so much more takes two
CACHE_BYTES = 8 << 30
OPEN_BLOCKS = 64  # of an array, mapped by a process


class Array(Protocol):
    """What both kinds offer: a length, and a copy or view of a range as a numpy array of one dimension."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice) -> npt.NDArray[np.integer]: ...


@dataclass(frozen=True)
class ArrayFolder:
    """The arrays of a folder. `identity` stands for its content; `cache` is for those in an object store."""

    place: Location
    identity: str
    cache: BlockCache

    def open(self, name: str, dtype: np.dtype[np.integer], length: int) -> Array:
        """The array of a file. Raises InputError where it is not of that length; for a remote one, when it is read."""
        if not self.place.is_local:
            return RemoteArray(self, name, dtype, length)
        path, size_bytes = self.place.path / name, length * dtype.itemsize
        if not path.is_file() or path.stat().st_size != size_bytes:
            raise InputError(f"{path}: missing or not of {size_bytes} bytes", "Run `ctl artifacts verify`.")
        return np.memmap(path, dtype=dtype, mode="r") if length else np.empty(0, dtype=dtype)


class BlockCache:
    """Blocks of remote files below `folder`, together at most `limit_bytes`, shared by processes.

    Each process may be above the bound by a sixty-fourth of it (at least a block) until it looks again.
    """

    def __init__(self, folder: Path, limit_bytes: int = CACHE_BYTES, block_bytes: int = BLOCK_BYTES) -> None:
        if block_bytes % 8 or limit_bytes < block_bytes:
            raise ValueError(f"blocks of {block_bytes} bytes, multiples of 8, do not fit {limit_bytes} bytes")
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.block_bytes = block_bytes
        self._unseen_bytes = limit_bytes  # written since the last look; none was taken yet

    def block(self, files: ArrayFolder, name: str, number: int, size_bytes: int) -> mmap.mmap:
        """A block of a file of `size_bytes`, mapped. Raises InputError where the file is gone or shorter."""
        start = number * self.block_bytes
        expected = min(self.block_bytes, size_bytes - start)
        path = self.folder / files.identity / name / f"{number:09d}"
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == expected:  # a crash of the machine may have left less
                    os.utime(file.fileno())
                    return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except FileNotFoundError:
            pass
        url = f"{files.place.url}/{name}"
        try:
            data = files.place.fs.cat_file(url, start=start, end=start + expected)
        except FileNotFoundError:
            raise InputError(f"{url}: no such file", "Run `ctl artifacts verify`.") from None
        if len(data) != expected:
            raise InputError(f"{url}: not of {size_bytes} bytes", "Run `ctl artifacts verify`.")
        self._make_room(expected)
        partial = path.with_name(f"{path.name}{PARTIAL}{os.getpid()}-{os.urandom(4).hex()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w+b") as file:
            file.write(data)
            file.flush()
            try:
                os.replace(partial, path)
            except FileNotFoundError:  # another process has made room already: what is mapped stays readable
                pass
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def _make_room(self, size_bytes: int) -> None:
        """Remove the blocks that were used longest ago until `size_bytes` more are within the bound."""
        self._unseen_bytes += size_bytes
        if self._unseen_bytes < self.limit_bytes // 64:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:  # one at a time: what two remove together is too much
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._unseen_bytes = size_bytes
            blocks = []
            for path in self.folder.rglob("*"):
                try:
                    if path.is_file() and path.name != "lock":
                        status = path.stat()
                        blocks.append((status.st_mtime_ns, status.st_size, path))
                except FileNotFoundError:  # renamed since
                    continue
            total = sum(size for _, size, _ in blocks) + size_bytes
            for _, size, path in sorted(blocks):
                if total <= self.limit_bytes:
                    return
                path.unlink(missing_ok=True)
                total -= size


class RemoteArray:
    """An array in an object store, read by blocks. Its digest is not checked: a range is all that arrives."""

    def __init__(self, files: ArrayFolder, name: str, dtype: np.dtype[np.integer], length: int) -> None:
        self._files, self._name, self._dtype, self._length = files, name, dtype, length
        self._block = functools.lru_cache(OPEN_BLOCKS)(self._map)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice) -> npt.NDArray[np.integer]:
        start, stop, _ = where.indices(self._length)
        per_block = self._files.cache.block_bytes // self._dtype.itemsize
        pieces = []
        while start < stop:
            number, skip = divmod(start, per_block)
            pieces.append(self._block(number)[skip : skip + stop - start])
            start += len(pieces[-1])
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=self._dtype)

    def _map(self, number: int) -> npt.NDArray[np.integer]:
        size_bytes = self._length * self._dtype.itemsize
        return np.frombuffer(self._files.cache.block(self._files, self._name, number, size_bytes), dtype=self._dtype)
