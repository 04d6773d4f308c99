"""A place for files on any fsspec file system, picklable, so that a task on another machine can write to it.

Local paths, `s3://bucket/prefix`, `gs://`, ... Credentials and endpoints come from the environment
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), never from a URL.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cluster.core.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

CHUNK_BYTES = 1 << 20
THREADS = 16  # that read files at once: one waits for the disk or the network while another computes
CREATE_TRIES, CREATE_PAUSE_SECONDS = 12, 0.05  # of an exclusive creation that met another in flight
STAMPS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "updated", "mtime", "created")
PACKED = (".gz", ".zst", ".bz2", ".xz")  # endings of compressed files
UNREAD_PACKED = (".zip", ".lz4", ".7z", ".rar", ".z", ".sz", ".snappy", ".lzo", ".lz", ".lzma", ".br")  # that say so
PARTIAL = ".partial-"  # in the names of files that are being written, and of those whose writer was killed


class Location:
    """A folder: `Location("/data/x")` or `Location("s3://bucket/x")`. Names below it use forward slashes."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        text = os.fspath(url)
        self.url = text.rstrip("/") if "://" in text else os.path.abspath(text)

    def __repr__(self) -> str:
        return f"Location({self.url!r})"

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.url}/{name}")

    def _about_to_write(self) -> None:
        """Called before anything here is written or removed; raises where that must not be (see fence.py)."""

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    @property
    def path(self) -> Path:
        """The folder as a local path. Raises InputError on an object store."""
        if not self.is_local:
            raise InputError(f"{self.url} is not on a local file system")
        return Path(self.url)

    @property
    def fs(self) -> Any:
        import fsspec

        if self.is_local:
            return fsspec.filesystem("file", auto_mkdir=True)
        # Another process may have written since: listings must never come from a cache.
        return fsspec.filesystem(self.url.split("://", 1)[0], use_listings_cache=False)

    def _at(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def open(self, name: str, mode: str = "rb", **options: Any) -> IO[Any]:
        """Open a file below this place. A file that is missing raises InputError."""
        if any(flag in mode for flag in "wax+"):
            self._about_to_write()
        try:
            if self.is_local:  # plain files: real tracebacks for a full disk, no wrapper in the hot path
                path = Path(self._at(name))
                if any(flag in mode for flag in "wax"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                return open(path, mode, **options)
            return self.fs.open(self._at(name), mode, **options)
        except FileNotFoundError:
            raise InputError(f"{self._at(name)}: no such file") from None

    def read_bytes(self, name: str) -> bytes:
        """A whole file, in one request on an object store: opened, it takes two, and must not change between them."""
        if self.is_local:
            with self.open(name) as file:
                return bytes(file.read())
        try:
            return bytes(self.fs.cat_file(self._at(name)))
        except FileNotFoundError:
            raise InputError(f"{self._at(name)}: no such file") from None

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """The bytes of a file from `start` to before `end`; of a shorter file, what there is."""
        if self.is_local:
            with self.open(name) as file:
                file.seek(start)
                return bytes(file.read(end - start))
        try:
            return bytes(self.fs.cat_file(self._at(name), start=start, end=end))
        except FileNotFoundError:
            raise InputError(f"{self._at(name)}: no such file") from None

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file so that a reader sees the old one or the new one, never a part."""
        self._about_to_write()
        if self.is_local:
            self._replace(name, lambda file: file.write(data))
        else:
            self.fs.pipe_file(self._at(name), data)

    def write_file(self, name: str, source: Path) -> None:
        """Write a copy of a local file, whole as `write_bytes` does, and without having it in memory."""
        self._about_to_write()
        if self.is_local:
            with source.open("rb") as opened:
                self._replace(name, lambda file: shutil.copyfileobj(opened, file, CHUNK_BYTES))
        else:
            self.fs.put_file(str(source), self._at(name))

    def _replace(self, name: str, write: Callable[[IO[Any]], object]) -> None:
        partial = f"{name}{PARTIAL}{os.getpid()}"
        try:
            with self.open(partial, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = error.filename or self._at(name)  # a full disk does not say which
            raise
        os.replace(self._at(partial), self._at(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet; False where it does. One of many at once wins, on S3 too."""
        self._about_to_write()
        if self.is_local:
            # Written aside and linked: a reader never sees the new file half-written.
            partial = f"{name}{PARTIAL}{os.getpid()}-{os.urandom(4).hex()}"
            with self.open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(self._at(partial), self._at(name))
            except FileExistsError:
                return False
            finally:
                os.unlink(self._at(partial))
            return True
        pause = threading.Event()
        for attempt in range(CREATE_TRIES):
            try:
                self.fs.pipe_file(self._at(name), data, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:
                status = _http_status(error)
                if status == HTTPStatus.PRECONDITION_FAILED:  # s3fs knows it only as Amazon words it
                    return False
                if status != HTTPStatus.CONFLICT or attempt + 1 == CREATE_TRIES:
                    raise
                pause.wait(min(1.0, CREATE_PAUSE_SECONDS * 2**attempt))  # another's is in flight: "ask again"
        raise AssertionError("unreachable")

    def exists(self, name: str = "") -> bool:
        return bool(self.fs.exists(self._at(name)))

    def size_bytes(self, name: str) -> int:
        return int(self.fs.size(self._at(name)))

    def names(self, name: str = "") -> list[str]:
        """Names of the direct children, sorted; an empty list where the folder does not exist."""
        try:
            found = os.listdir(self._at(name)) if self.is_local else self.fs.ls(self._at(name), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({entry.rstrip("/").rsplit("/", 1)[-1] for entry in found} - {""})

    def changed_at(self) -> float:
        """When anything in this folder last changed, in seconds since 1970; 0 where there is no such folder."""
        if self.is_local:
            times = (_modified(path) for path in (Path(self.url), *Path(self.url).rglob("*")))
            return max(times, default=0.0)
        found = self.fs.find(self.url, detail=True).values()
        changes = (entry.get("LastModified") or self.fs.modified(entry["name"]) for entry in found)
        return max((change.timestamp() for change in changes), default=0.0)

    def total_bytes(self) -> int:
        """The sizes of all files below."""
        if self.is_local:
            return sum(self.size_bytes(name) for name in self.walk())
        return sum(int(entry["size"]) for entry in self.fs.find(self.url, detail=True).values())

    def walk(self) -> Iterator[str]:
        """All files below, as sorted relative names."""
        if self.is_local:
            for path in sorted(Path(self.url).rglob("*")):
                if path.is_file():
                    yield path.relative_to(self.url).as_posix()
            return
        prefix = self.fs._strip_protocol(self.url) + "/"
        for found in sorted(self.fs.find(self.url)):
            yield found.removeprefix(prefix)

    def remove(self, name: str = "") -> None:
        """Remove a file or a folder with all it holds; nothing happens where there is none."""
        self._about_to_write()
        if self.is_local:
            path = Path(self._at(name))
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, onerror=_unless_gone)
            else:
                path.unlink(missing_ok=True)
            return
        try:
            self.fs.rm(self._at(name), recursive=True)
        except FileNotFoundError:
            pass

    def digest(self, name: str) -> str:
        """SHA-256 (hex) of a file."""
        return self._measure(name)[1]

    def _measure(self, name: str) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        with self.open(name) as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        return size, digest.hexdigest()

    def measure(self, names: Iterable[str]) -> dict[str, tuple[int, str]]:
        """Size in bytes and SHA-256 of many files, read at the same time."""
        chosen = list(names)
        with _threads() as pool:
            return dict(zip(chosen, pool.map(self._measure, chosen), strict=True))

    def put(self, folder: Path, name: str = "") -> None:
        """Copy a local folder's files to `name` below this place, replacing files of the same name."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                target = "/".join(filter(None, (name, path.relative_to(folder).as_posix())))
                with path.open("rb") as source, self.open(target, "wb") as sink:
                    shutil.copyfileobj(source, sink, CHUNK_BYTES)

    def get(self, folder: Path) -> None:
        """Copy everything below this place into a local folder."""

        def bring(name: str) -> None:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.open(name) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)

        with _threads() as pool:
            list(pool.map(bring, self.walk()))


def stamp_of(info: dict[str, Any]) -> str:
    """What a file system says of a file's version: an ETag or a time, empty where it says neither."""
    return next((str(info[key]) for key in STAMPS if info.get(key)), "")


def _http_status(error: OSError) -> int:
    """Status of the answer that an error of an object store's client stands for; 0 where there is none."""
    response = getattr(error.__cause__, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:  # removed since it was listed
        return 0.0


def _unless_gone(function: object, path: str, error: tuple[Any, BaseException, Any]) -> None:
    """For rmtree: what another has removed meanwhile is no error."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _threads() -> ThreadPoolExecutor:
    # Imports `queue`, which while `python script.py` begins may be a file of the user's (see usercode.py).
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(THREADS)
