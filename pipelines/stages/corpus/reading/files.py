"""The files of a source, local or at any fsspec URL, and their bytes as a stream without compression.

A file's name is its path below the source's, so a corpus is the same wherever its files lie. Listing opens nothing: a
pipe or a dangling link is listed, and says what it is when it is opened.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from cluster.core.errors import InputError
from cluster.core.storage.location import PACKED, UNREAD_PACKED, Location, stamp_of
from pipelines.stages.corpus.documents import SourceFile
from pipelines.stages.corpus.reading.compression import HEAD_BYTES, decompressed, kind_of

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "node_modules"}  # and hidden ones
BUFFER_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 64 << 20  # a larger file, line or field is no document
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error, ValueError)  # what reading a file may raise
GLOB = re.compile(r"[*?\[]")


def find(path: str, suffixes: tuple[str, ...]) -> list[SourceFile]:
    """The files at `path` (a file, a folder or a glob) that end in one of the suffixes, compressed or not, by name.

    A single file is taken whatever it ends in. Below a folder or a glob, hidden folders, `SKIPPED_FOLDERS` and links
    back to a folder above are left out. Capitals do not matter in endings. Raises InputError where there are no files,
    or they cannot be listed.
    """
    path = path.removeprefix("file://")
    listed = (_find_remote if "://" in path else _find_local)(path) if path else None
    if listed is None:
        raise InputError(
            f"corpus.sources: path {path!r} is not a folder or file",
            "Give a file, a folder or a glob that every node can read, or an fsspec URL such as s3://bucket/prefix.",
        )
    endings = tuple(suffix.lower() + packed for suffix in suffixes for packed in ("", *PACKED, *UNREAD_PACKED))
    files = [file for file in listed if file.name.lower().endswith(endings) or file.path == path]
    if not files:
        raise InputError(
            f"corpus.sources: no file of path {path!r} ends in {' or '.join(suffixes)} (or this and a compression's "
            f"{', '.join(PACKED)})",
            "Correct the source's path, or list the files' endings in its `suffixes`.",
        )
    return sorted(files, key=lambda file: file.name)


def walk(root: str, below: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Relative names of all files below a local folder, in no order. Raises InputError for an unlistable folder."""
    folder = os.path.join(root, below)
    try:
        status = os.stat(folder)
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError as error:
        raise InputError(
            f"corpus.sources: {error.filename}: {error.strerror}", "Every folder of the source must be readable."
        ) from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if not _is_folder(entry):
            yield name
        elif not _is_skipped(entry.name):
            yield from walk(root, name, above | {here})


def printable(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 are written as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def local_file(name: str, path: str) -> SourceFile:
    """A local file as it is now; size -1 where it cannot be read as one (a pipe, a dangling link)."""
    try:
        status = os.stat(path)
    except OSError:
        return SourceFile(printable(name), path, -1, "")
    size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else -1
    return SourceFile(printable(name), path, size_bytes, str(status.st_mtime_ns))


def is_compressed(file: SourceFile) -> bool:
    """Whether `open_stream` decompresses the file."""
    with _open(file) as raw:
        return kind_of(raw.read(HEAD_BYTES)) is not None


def open_stream(file: SourceFile) -> io.BufferedReader:
    """The file's bytes, buffered, decompressed (`.tar.gz` gives the tar). Raises one of `UNREADABLE`."""
    raw = _open(file)
    try:
        return io.BufferedReader(decompressed(raw, file.name), BUFFER_BYTES)
    except BaseException:
        raw.close()
        raise


def _open(file: SourceFile) -> Any:
    if "://" in file.path:
        return Location(file.path).fs.open(file.path, "rb", cache_type="readahead")
    if not stat.S_ISREG(os.stat(file.path).st_mode):  # reading a pipe would wait for ever
        raise OSError(errno.EINVAL, "not a regular file", file.path)
    return open(file.path, "rb", buffering=0)


def seekable(stream: IO[bytes]) -> IO[bytes]:
    """The stream, or a copy on the disk of one that is decompressed on the way: for what is read from its end."""
    if stream.seekable():
        return stream
    whole = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    shutil.copyfileobj(stream, whole)
    whole.seek(0)
    return whole


def lines(stream: IO[bytes], limit_bytes: int = MAX_DOCUMENT_BYTES) -> Iterator[tuple[int, bytes]]:
    """Lines and their numbers from 1, line endings included, in flat memory.

    Of a line longer than `limit_bytes` come the first `limit_bytes + 1`, and the rest is skipped: its length tells.
    """
    number = 0
    while line := stream.readline(limit_bytes + 1):
        number += 1
        yield number, line
        if len(line) > limit_bytes and not line.endswith(b"\n"):
            _skip_line(stream, limit_bytes)


def lines_between(
    stream: io.BufferedReader, start: int, stop: int, limit_bytes: int = MAX_DOCUMENT_BYTES
) -> Iterator[tuple[int, bytes]]:
    """The lines that begin at bytes [start, stop), each with that byte; otherwise as `lines`."""
    position = max(0, start - 1)
    stream.seek(position)
    if start:  # what is left of the line before, which may end right there
        position += _skip_line(stream, limit_bytes)
    while position < stop and (line := stream.readline(limit_bytes + 1)):
        yield position, line
        position += len(line)
        if len(line) > limit_bytes and not line.endswith(b"\n"):
            position += _skip_line(stream, limit_bytes)


def _skip_line(stream: IO[bytes], limit_bytes: int) -> int:
    """Read on to the end of the line; how many bytes that were."""
    skipped = 0
    while line := stream.readline(limit_bytes + 1):
        skipped += len(line)
        if line.endswith(b"\n"):
            break
    return skipped


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: listed, and refused when it is opened
        return False


def _is_skipped(folder: str) -> bool:
    return folder.startswith(".") or folder in SKIPPED_FOLDERS


def _split_glob(path: str) -> tuple[str, Callable[[str], object]]:
    """The folder that a glob starts in, and whether a name below it matches."""
    from fsspec.utils import glob_translate

    root = path[: GLOB.search(path).start()].rpartition("/")[0]  # type: ignore[union-attr]
    pattern = path[len(root) :].lstrip("/")
    return root or ("/" if path.startswith("/") else "."), re.compile(glob_translate(pattern)).match


def _find_local(path: str) -> list[SourceFile] | None:
    if os.path.isdir(path):
        return [local_file(name, os.path.join(path, name)) for name in walk(path)]
    if os.path.lexists(path):
        return [local_file(os.path.basename(path), path)]
    if not GLOB.search(path):
        return None
    root, matches = _split_glob(path)
    if not os.path.isdir(root):
        return None
    return [local_file(name, os.path.join(root, name)) for name in walk(root) if matches(name)]


def _find_remote(path: str) -> list[SourceFile] | None:
    """As `_find_local`, on a file system of fsspec. Whatever its client raises becomes an InputError."""
    try:
        fs = Location(path).fs
        info = _info(fs, path)
        if info and info["type"] == "file":
            return [_remote_file(path.rsplit("/", 1)[1], path, info)]
        is_glob = info is None and GLOB.search(path) is not None
        root, matches = _split_glob(path) if is_glob else (path.rstrip("/"), bool)
        if _info(fs, root) is None:
            return None
        prefix = str(fs._strip_protocol(root)).rstrip("/") + "/"
        found = {str(name).removeprefix(prefix): info for name, info in fs.find(root, detail=True).items()}
    except Exception as error:
        raise InputError(
            f"corpus.sources: path {path!r} cannot be listed: {type(error).__name__}: {error}",
            "Check the address, the network, and the credentials and the endpoint in the environment.",
        ) from error
    return [
        _remote_file(name, f"{root}/{name}", info)
        for name, info in found.items()
        if matches(name) and not name.endswith("/") and not any(map(_is_skipped, name.split("/")[:-1]))
    ]


def _info(fs: Any, path: str) -> dict[str, Any] | None:
    try:
        info: dict[str, Any] = fs.info(path)
    except FileNotFoundError:
        return None
    return info


def _remote_file(name: str, path: str, info: dict[str, Any]) -> SourceFile:
    size_bytes = info.get("size")
    return SourceFile(name, path, -1 if size_bytes is None else int(size_bytes), stamp_of(info))
