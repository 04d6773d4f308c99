"""A job's output in the store: written as it comes, read from where one has read to, whether the job lives or not.

`{store}/.jobs/logs/ID/ATTEMPT-OFFSET`. On a file system an attempt has one file, which grows. An object store cannot
append: each look of the writer makes a further object, and it looks less often the longer the job runs.
"""

from __future__ import annotations

import codecs
import threading
from collections.abc import Iterator
from pathlib import Path

from cluster.control.durable.records import FOLDER
from cluster.core.errors import InputError
from cluster.core.storage.location import Location

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, GROWTH = 1.0, 10.0, 1.2
PIECE_BYTES = 8 << 20
KEPT_BYTES = 256 << 20  # at most, of what the store does not take at the moment
READ_BYTES = 1 << 20


def logs_of(root: Location, job_id: str) -> Location:
    return root / FOLDER / "logs" / job_id


class Output:
    """Writes one attempt's output. `close()` raises what kept the last of it from being written."""

    def __init__(self, root: Location, job_id: str, attempt: int) -> None:
        self._place, self._attempt = logs_of(root, job_id), attempt
        self._offset = 0
        self._file = None
        if root.is_local:
            path = Path(self._place.url) / self._name()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            return
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._full = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="job-output")
        self._thread.start()

    def _name(self) -> str:
        return f"{self._attempt:04d}-{self._offset:014d}"

    def write(self, data: bytes) -> None:
        if self._file is not None:
            while data:
                data = data[self._file.write(data) :]
            return
        with self._lock:
            if self._waiting_bytes < KEPT_BYTES:
                self._pieces.append(data)
                self._waiting_bytes += len(data)
            if self._waiting_bytes >= PIECE_BYTES:
                self._full.set()

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._closed.is_set():
            self._full.wait(pause)
            self._full.clear()
            pause = min(LONGEST_PAUSE_SECONDS, pause * GROWTH)
            self._flush()

    def _flush(self) -> None:
        """Write what has come. Where that fails it is tried again at the next look, and told at the end."""
        with self._lock:
            data, self._pieces = b"".join(self._pieces), []
        while data:
            piece = data[:PIECE_BYTES]
            try:
                self._place.write_bytes(self._name(), piece)
            except Exception as error:  # of any object store
                self._error = error
                break
            self._error = None
            self._offset += len(piece)
            data = data[len(piece) :]
        with self._lock:
            self._pieces[:0] = [data] if data else []
            self._waiting_bytes = sum(map(len, self._pieces))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            return
        self._closed.set()
        self._full.set()
        self._thread.join()
        self._flush()
        if self._error:
            raise self._error


class LogReader:
    """Reads a job's output, all attempts in their order; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, root: Location, job_id: str) -> None:
        self._place = logs_of(root, job_id)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._name, self._position = "", 0

    def new(self) -> Iterator[str]:
        """What was written since the last look."""
        for name in [name for name in self._place.names() if name >= self._name]:
            if name != self._name:
                self._name, self._position = name, 0
            elif not self._place.is_local:  # an object does not grow
                continue
            while data := self._range():
                self._position += len(data)
                if text := self._decoder.decode(data):
                    yield text

    def _range(self) -> bytes:
        if not self._place.is_local:
            return b"" if self._position else self._place.read_bytes(self._name)
        try:
            return self._place.read_range(self._name, self._position, self._position + READ_BYTES)
        except InputError:  # removed since
            return b""

    def rest(self) -> str:
        """What is left of a character that the job did not finish."""
        return self._decoder.decode(b"", final=True)
