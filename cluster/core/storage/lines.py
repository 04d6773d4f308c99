"""Files of JSON lines that grow while a run goes on, and are cut back where it goes on earlier.

On a file system a line is appended. An object store cannot append: there the file is in segments, `x.jsonl`,
`x.jsonl.1`, `x.jsonl.2`, of which only the last is written again, so that a line costs the same however many came
before it. Everything here reads both forms, wherever it finds them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from cluster.core.errors import InputError
from cluster.core.storage.location import Location

SEGMENT_BYTES = 1 << 16  # from here on a segment is left alone, and the next one begun

Line = dict[str, Any]


def read(place: Location, file: str) -> list[Line]:
    """All lines, oldest first, without a last one that was cut off in writing; none where there is no file."""
    return [line for segment in _segments(place, file) for line in _parse(_read(place, segment))]


def _segments(place: Location, file: str) -> list[str]:
    """The names of a file's segments that are there, in their order."""
    numbers = [0 if name == file else int(name[len(file) + 1 :]) for name in place.names() if _is_segment(name, file)]
    return [_name(file, number) for number in sorted(numbers)]


def _is_segment(name: str, file: str) -> bool:
    return name == file or (name.startswith(f"{file}.") and name[len(file) + 1 :].isdigit())


def _name(file: str, number: int) -> str:
    return f"{file}.{number}" if number else file


def _read(place: Location, segment: str) -> bytes:
    try:
        return place.read_bytes(segment)
    except InputError:  # cut back since it was listed
        return b""


def _parse(data: bytes) -> list[Line]:
    return [json.loads(line) for line in _whole(data).splitlines()]


def _whole(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _encode(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


class LineFile:
    """The one writer of a file of lines.

    On a file system every line is there at once; on an object store at each `flush`.
    """

    def __init__(self, place: Location, file: str, keep: Callable[[Line], bool] = lambda line: True) -> None:
        """Go on with what is there, up to the first line that `keep` refuses or that was cut off in writing."""
        self._place, self._file = place, file
        self._number, self._tail = 0, b""  # the last segment, and what is in it: on an object store
        self._written = True
        segments = _segments(place, file)
        for number, segment in enumerate(segments):
            data = place.read_bytes(segment)
            end = 0
            for line in _whole(data).splitlines(keepends=True):
                if not keep(json.loads(line)):
                    break
                end += len(line)
            kept = data[:end]
            self._number, self._tail = number, kept
            if kept != data:  # from the end, so that what is left is always a beginning
                for later in reversed(segments[number + 1 :]):
                    place.remove(later)
                place.write_bytes(segment, kept)
                break
        if not segments:
            place.write_bytes(file, b"")

    def append(self, line: Line) -> None:
        if self._place.is_local:
            with self._place.open(_name(self._file, self._number), "ab", buffering=0) as file:
                file.write(_encode(line))
            return
        if len(self._tail) >= SEGMENT_BYTES and self._written:
            self._number, self._tail = self._number + 1, b""
        self._tail += _encode(line)
        self._written = False

    def flush(self) -> None:
        """Make everything appended so far survive this process."""
        if not self._written:
            self._place.write_bytes(_name(self._file, self._number), self._tail)
            self._written = True


class Follower:
    """Reads a file of lines again and again while another process writes it: each time only what is new."""

    def __init__(self, place: Location, file: str) -> None:
        self._place, self._file = place, file
        self._begin_again()

    def _begin_again(self) -> None:
        self._lines: list[Line] = []
        self._told = 0  # of these lines, by `new`
        self._inode, self._offset = 0, 0  # of a file on a file system, and how far it was read
        self._number, self._seen = 0, b""  # the segment on an object store that was read last, and what was in it

    def lines(self) -> list[Line]:
        """All lines that are there by now. The list is the follower's own."""
        segments = _segments(self._place, self._file)
        if not self._place.is_local:
            self._read_segments(segments)
        elif segments == [self._file]:
            self._read_on()
        else:  # none yet, or brought here from an object store
            self._lines = read(self._place, self._file)
        return self._lines

    def new(self) -> list[Line]:
        """The lines that were not there at the last look; all of them where the file was cut back since."""
        lines = self.lines()
        new, self._told = lines[self._told :], len(lines)
        return new

    def _read_on(self) -> None:
        with self._place.open(self._file) as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:  # cut back: a new file in its place
                self._begin_again()
                self._inode = status.st_ino
            file.seek(self._offset)
            new = _whole(file.read())
        self._offset += len(new)
        self._lines += _parse(new)

    def _read_segments(self, segments: list[str]) -> None:
        if len(segments) <= self._number:
            self._begin_again()
        for number in range(self._number, len(segments)):
            if number > self._number:
                self._number, self._seen = number, b""
            data = _read(self._place, segments[number])
            if not data.startswith(self._seen):  # cut back
                self._begin_again()
                self._read_segments(_segments(self._place, self._file))
                return
            self._lines += _parse(data[len(self._seen) :])
            self._seen = data
