"""The log of one replica: a file of its own in the folder that all replicas share, begun with its first line."""

from __future__ import annotations

import asyncio
import secrets
import time

import msgspec

from cluster.core.feedback import ENDING, Line
from cluster.core.storage.lines import LineFile
from cluster.core.storage.location import Location
from serving.keys.key import redacted


class FeedbackLog:
    """Appends lines. What `write` has returned of survives the replica."""

    def __init__(self, place: Location) -> None:
        self._place = place
        self._file: LineFile | None = None
        self._turn = asyncio.Lock()

    async def write(self, line: Line) -> None:
        """Raises OSError where it cannot be kept; the next line then begins another file, behind no broken one."""
        async with self._turn:
            try:
                await asyncio.to_thread(self._append, line)
            except Exception:
                self._file = None
                raise

    def _append(self, line: Line) -> None:
        if self._file is None:
            begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            self._file = LineFile(self._place, f"{begun}-{secrets.token_hex(6)}{ENDING}")
        # Keys that somebody wrote into a text are replaced by their ids, as in the log of requests.
        self._file.append(msgspec.json.decode(redacted(msgspec.json.encode(line).decode())))
        self._file.flush()
