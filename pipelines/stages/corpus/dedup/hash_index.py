"""Files of records in buckets, so that a task reads its own bucket of many files and nothing else.

A file is the byte offsets of its buckets (uint64, one more than there are buckets), then the records, of a fixed size,
bucket by bucket. Two ranged reads fetch a bucket, on a disk and on an object store alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.core.errors import InputError
from cluster.core.storage.location import Location

Numbers = npt.NDArray[np.uint64]  # of documents: piece << 32 | row

PARTITIONS = 64  # tasks that share a corpus's hashes
_OFFSET_BYTES = 8


def partition_of(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Which of the `PARTITIONS` ranges of hashes each belongs to: its upper six bits."""
    return (hashes >> np.uint64(58)).astype(np.uint8)


def write_buckets(place: Location, name: str, records: npt.NDArray[Any], buckets: npt.NDArray[Any], count: int) -> None:
    """Write records, shape (n,), each into the bucket, 0 to `count` - 1, that `buckets`, shape (n,), says."""
    sizes = np.bincount(buckets, minlength=count) * records.itemsize
    offsets = _OFFSET_BYTES * (count + 1) + np.concatenate([[0], np.cumsum(sizes)])
    order = np.argsort(buckets, kind="stable")
    place.write_bytes(name, offsets.astype("<u8").tobytes() + records[order].tobytes())


def read_bucket(place: Location, name: str, bucket: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The records of one bucket. Raises InputError where the file is missing or does not hold what it should."""
    start, end = np.frombuffer(_read(place, name, _OFFSET_BYTES * bucket, 2 * _OFFSET_BYTES), dtype="<u8").tolist()
    if end < start or (end - start) % dtype.itemsize:
        raise _damaged(place, name)
    return np.frombuffer(_read(place, name, start, end - start), dtype=dtype)


def _read(place: Location, name: str, start: int, length: int) -> bytes:
    if not length:
        return b""
    try:
        found: bytes = place.fs.cat_file(f"{place.url}/{name}", start=start, end=start + length)
    except FileNotFoundError:
        raise InputError(f"{place.url}/{name}: no such file") from None
    if len(found) != length:
        raise _damaged(place, name)
    return found


def _damaged(place: Location, name: str) -> InputError:
    return InputError(f"{place.url}/{name}: the file is damaged or of another format", "Build its corpus again.")
