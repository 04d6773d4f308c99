"""The records of a web archive (ISO 28500), cut out of its bytes; damage costs only the records that it hits.

A record's `Content-Length` is believed where the end of a record follows what it spans. Where it does not, or there is
none, the record ends before the next line `WARC/1.` that a header follows: its page is whole more often than not. What
belongs to no record is given as one that has a problem, so that every byte of an archive is accounted for.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.stages.corpus.reading.files import UNREADABLE
from pipelines.stages.corpus.tally import WRONG_LENGTH

HEADER_BYTES = 1 << 16
READ_BYTES = 1 << 16
AHEAD_BYTES = 256  # enough to tell whether a record begins
DESCRIPTIONS = frozenset({"warcinfo", "request", "metadata"})  # of other records

_BEGINS = re.compile(rb"WARC/\d+\.\d+[ \t]*\r?\n(?=[A-Za-z][\w-]*[ \t]*:)", re.IGNORECASE)
_MARK = b"\xef\xbb\xbf"  # of UTF-8, which some editor has put before all
# Also in the middle of a line, where the file before was cut off and another appended; there a field must be WARC's.
_NEXT = re.compile(
    rb"(?<=\n)" + _BEGINS.pattern + rb"|WARC/\d+\.\d+[ \t]*\r?\n(?=(?:WARC-|Content-)[\w-]+[ \t]*:)", re.IGNORECASE
)
_BLANK_LINE = re.compile(rb"\n[ \t]*\r?\n")
_BEHIND = re.compile(rb"(?:\r?\n){1,2}\Z")  # what stands behind every record
_LINE_ENDS = re.compile(rb"[\r\n]*")
_FOLDED = re.compile(r"\r?\n[ \t]+")


class Record(NamedTuple):
    """A record: headers (names in lower case; the first of several), and its block or why there is none."""

    position: int  # byte of the decompressed file
    headers: dict[str, str]
    block: bytes
    problem: str = ""
    note: str = ""  # what its header says wrongly
    is_cut: bool = False  # the file ends in it

    @property
    def kind(self) -> str:
        return self.headers.get("warc-type", "").lower()


def records(stream: io.BufferedReader, limit_bytes: int) -> Iterator[Record]:
    """All records but descriptions. Blocks larger than `limit_bytes` are passed over, which is their problem.

    Raises ValueError for a file without a record, and at the end of a file that could not be read further.
    """
    window = _Window(stream)
    window.pass_mark()
    position, found_any = 0, False
    while not window.at_end():
        position = window.position
        if damage := window.damage():  # of whole records, of which nothing is known
            yield Record(position, {}, b"", f"damaged: what stood here: {damage}")
        if _BEGINS.match(window.data):
            found_any = True
            record = _record(window, limit_bytes)
        else:
            head = bytes(window.data[:40])
            window.pass_to_next()
            if window.at_end() and not found_any and window.error is None:
                raise ValueError(
                    f"Invalid WARC header at byte {position}: {head!r} begins no record, nor does the rest"
                )
            size = window.position - position
            record = Record(position, {}, b"", f"no_record: {size} bytes that belong to no record, from {head!r}")
        if damage := window.damage():
            record = record._replace(problem=f"damaged: {damage}")
        if record.problem or record.kind not in DESCRIPTIONS:
            yield record
    if window.error is not None:
        raise ValueError(f"in or behind the record at byte {position}: {window.error}") from window.error


def _record(window: _Window, limit_bytes: int) -> Record:
    """The record at the window's beginning, which then stands behind it."""
    position = window.position
    end = window.search(_BLANK_LINE, HEADER_BYTES)
    following = _NEXT.search(window.data, 1, end if end is not None else len(window.data))
    if end is None or following is not None:  # the header breaks off
        window.pass_to_next()
        what = "the file was cut off there" if window.at_end() else "another record begins there"
        problem = f"truncated: the record's header does not end; {what}"
        return Record(position, {}, b"", problem, is_cut=window.at_end())
    blank = _BLANK_LINE.match(window.data, end)
    assert blank is not None
    headers = parse_headers(bytes(window.data[:end]))
    window.drop(blank.end())
    said = headers.get("content-length", "")
    size = int(said) if said.isascii() and said.isdigit() and len(said) < 16 else None
    if size is not None and size > limit_bytes:
        if window.search(_NEXT, limit_bytes) is None and not (window.is_read() and len(window.data) <= limit_bytes):
            passed = window.skip(size)
            if passed < size and window.is_cut():
                problem = f"truncated: {passed} of {size} bytes; the file was cut off there"
                return Record(position, headers, b"", problem, is_cut=True)
            large = Record(position, headers, b"", f"file_size: {size} bytes, more than {limit_bytes}")
            return large._replace(problem="") if large.kind in DESCRIPTIONS else large
        size = None  # the next record begins long before
    if size is not None and window.ends_at(size):
        return Record(position, headers, window.drop(size))
    return _unbelieved(window, position, headers, said, limit_bytes)


def _unbelieved(window: _Window, position: int, headers: dict[str, str], said: str, limit_bytes: int) -> Record:
    """A record whose length is not what its header says: it ends where the next begins, or at the file's end."""
    end = window.search(_NEXT, limit_bytes)
    if end is None and not window.is_read():
        window.pass_to_next()
        return Record(position, headers, b"", f"file_size: no record begins in {limit_bytes} bytes behind its header")
    block = window.drop(len(window.data) if end is None else end)
    behind = _BEHIND.search(block)
    wanted = int(said) if said.isascii() and said.isdigit() else 0
    ends = block.endswith((b"\r\n\r\n", b"\n\n")) and window.error is None
    if end is None and not ends and (wanted > len(block) or window.error is not None):
        problem = f"truncated: {len(block)} of {said} bytes; the file was cut off there"
        return Record(position, headers, b"", problem, is_cut=True)
    block = block[: behind.start()] if behind else block
    note = f"{WRONG_LENGTH}{said or 'missing'}, but the record has {len(block)} bytes"
    return Record(position, headers, block, note=note)


def parse_headers(head: bytes) -> dict[str, str]:
    """The fields of a header, names in lower case; folded lines are one, and of several of a name the first counts."""
    headers: dict[str, str] = {}
    for line in _FOLDED.sub(" ", head.decode("utf-8", "replace")).splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return headers


class _Window:
    """What is read of the stream and not yet passed. An error of the stream ends it, behind what was read before."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.data = bytearray()
        self.position = 0  # of the first byte of `data`
        self.error: Exception | None = None
        self._stream, self._ended = stream, False
        self._damages: list[tuple[int, Exception]] = []  # at which byte; the stream went on behind it

    def _fill(self, size: int) -> bool:
        """Whether at least that many bytes are there; reads on until they are."""
        while len(self.data) < size and not self._ended:
            try:
                more = self._stream.read1(READ_BYTES)
                self.data += more
                self._ended = not more
            except UNREADABLE as error:
                resume = getattr(self._stream.raw, "resume", None)
                if resume is not None and resume():
                    self._damages.append((self.position + len(self.data), error))
                    self.data += b"\r\n"  # what follows begins a line
                else:
                    self.error, self._ended = error, True
        return len(self.data) >= size

    def at_end(self) -> bool:
        """Whether nothing but line ends is left."""
        while True:
            self.drop(_LINE_ENDS.match(self.data).end())  # type: ignore[union-attr]
            if self.data or self._ended:
                self._fill(AHEAD_BYTES)
                return not self.data
            self._fill(1)

    def pass_mark(self) -> None:
        """Pass over a byte order mark at the beginning."""
        if self._fill(len(_MARK)) and self.data.startswith(_MARK):
            self.drop(len(_MARK))

    def is_read(self) -> bool:
        """Whether all that there is, is in the window."""
        return not self._fill(len(self.data) + 1)

    def is_cut(self) -> bool:
        """Whether the file ends here, behind nothing that ends a record."""
        return not self.data and self.is_read()

    def drop(self, count: int) -> bytes:
        """Pass over the first bytes, which are returned."""
        dropped = bytes(self.data[:count])
        del self.data[:count]
        self.position += count
        return dropped

    def ends_at(self, size: int) -> bool:
        """Whether a record can end behind that many bytes: its two line ends follow, or another record, or nothing."""
        if not self._fill(size):
            return False
        self._fill(size + AHEAD_BYTES)
        behind = bytes(self.data[size : size + AHEAD_BYTES])
        rest = behind.lstrip(b"\r\n")
        return not rest or behind.startswith((b"\r\n\r\n", b"\n\n")) or _BEGINS.match(rest) is not None

    def search(self, pattern: re.Pattern[bytes], limit_bytes: int) -> int | None:
        """Where the pattern is first found within the limit, if it is; nothing is passed."""
        start = 0
        while True:
            if found := pattern.search(self.data, start):
                return found.start() if found.start() <= limit_bytes else None
            if len(self.data) > limit_bytes + AHEAD_BYTES:
                return None
            start = max(0, len(self.data) - AHEAD_BYTES)
            if not self._fill(len(self.data) + 1):
                return None

    def skip(self, size: int) -> int:
        """Pass over that many bytes, or as many as there are before the next record; how many they were.

        Only for what is too large to be held: there a record that begins says that the size is wrong.
        """
        passed = 0
        while passed < size and self._fill(1):
            self._fill(READ_BYTES)
            span = min(len(self.data), size - passed)
            found = _NEXT.search(self.data, 0, span)
            if found:
                self.drop(found.start())
                return passed + found.start()
            keep = AHEAD_BYTES if span == len(self.data) and not self.is_read() else 0
            passed += len(self.drop(max(1, span - keep)))
        return passed

    def pass_to_next(self) -> None:
        """Go to where the next record begins, or to the end."""
        while True:
            found = _NEXT.search(self.data, 1)
            if found:
                self.drop(found.start())
                return
            more = self._fill(len(self.data) + 1)
            self.drop(max(0, len(self.data) - READ_BYTES - AHEAD_BYTES) if more else len(self.data))
            if not more:
                return

    def damage(self) -> Exception | None:
        """What was damaged of what has been passed since this was last asked."""
        passed = [error for at, error in self._damages if at <= self.position]
        self._damages = self._damages[len(passed) :]
        return passed[0] if passed else None
