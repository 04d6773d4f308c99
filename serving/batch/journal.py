"""What a batch has so far: a file beside its output, of answers in the order in which they came.

Every answer is there as soon as it is known, so that a kill at any moment loses none that was written; a line that it
cut is asked again. When all are there, the output is written in order under another name and renamed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from cluster.core.errors import InputError, NotReadyError

SUFFIX = ".partial"


class Journal:
    """The answers of a batch by the numbers of their lines. `identity` is of the batch; one writer at a time."""

    def __init__(self, output: Path, identity: str) -> None:
        """Go on with what is there. Raises InputError for another batch's, NotReadyError while another process writes.

        InputError, too, for an output that is there already.
        """
        self.output, self.path = output, output.with_name(output.name + SUFFIX)
        self._places: dict[int, tuple[int, int]] = {}
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}", "Give an output where files can be written.") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotReadyError(f"{self.path}: another process is answering this batch", "Wait for it.") from None
        self._header = f"batch {identity}\n".encode()
        self._end = self._read()

    @property
    def numbers(self) -> set[int]:
        """The lines that have answers."""
        return set(self._places)

    def _read(self) -> int:
        """Take in what is there, without a last line that was cut; where that ends."""
        self._file.seek(0)
        first = self._file.readline()
        if first and first.endswith(b"\n") and first != self._header:
            raise InputError(
                f"{self.path} is of another batch: its input, model or endpoint was another",
                "Remove it, or give another output.",
            )
        if not first.endswith(b"\n"):
            self._file.truncate(0)
            self._write(self._header)
            return len(self._header)
        end = len(first)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            number, _, _ = line.partition(b"\t")
            start = end + len(number) + 1
            end += len(line)
            self._places[int(number)] = start, end
        self._file.truncate(end)
        return end

    def _write(self, data: bytes) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()

    def add(self, number: int, line: bytes) -> None:
        """Keep an answer, which ends with a line's end; one that is there already stays."""
        if number in self._places:
            return
        head = b"%d\t" % number
        self._write(head + line)
        self._places[number] = self._end + len(head), self._end + len(head) + len(line)
        self._end += len(head) + len(line)

    def finish(self, numbers: Iterable[int]) -> None:
        """Write the output: the answers of these lines, in this order. The journal goes."""
        whole = self.output.with_name(f"{self.output.name}{SUFFIX}-{os.getpid()}")
        with whole.open("wb") as file:
            for number in numbers:
                start, end = self._places[number]
                self._file.seek(start)
                file.write(self._file.read(end - start))
            file.flush()
            os.fsync(file.fileno())
        os.replace(whole, self.output)
        self.path.unlink()
        self._file.close()

    def close(self) -> None:
        self._file.close()
