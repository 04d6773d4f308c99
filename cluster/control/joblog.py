"""A job's output as bytes, from an offset: what was read is not read again, and no odd byte in it ends the reading.

Ray's own readers of logs decode strictly and begin anew at every call. Where the node of the job's driver can be
reached, its agent sends only what is new. Elsewhere (through a port-forward to the dashboard) the dashboard sends the
whole each time, so it is asked less often, the longer that takes.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from cluster.control import dashboard
from cluster.core.errors import NotReadyError

CHUNK_BYTES = 1 << 16
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
POLL_SECONDS = 0.5
SHARE = 10  # a whole log is read in at most one part of so many of the time, ...
LONGEST_PAUSE_SECONDS = 30.0  # ... but at least so often
WHOLE = "/api/v0/logs/file?lines=-1&timeout=600&node_id={node_id}&submission_id={job_id}"
ABSENT = "A file is not found"  # what Ray says of the log of a job that has not begun


class JobLog:
    """The output of one job, read bit by bit; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, url: str, job_id: str, *, within: bool) -> None:
        """`url` of the dashboard; `within`: we are in the cluster's network, where its addresses are what they say."""
        self._url, self._id, self._within = url, job_id, within
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self._reached = False  # the agent, once
        self.pause_seconds = POLL_SECONDS
        """How long to wait until the next look."""

    def new(self, agent: str | None, node_id: str | None) -> Iterator[str]:
        """What was written since the last look, by a driver beside the agent at that address, on that node.

        Raises NotReadyError where the cluster does not send it.
        """
        if not agent or not node_id:  # it has not begun
            return
        self.pause_seconds = POLL_SECONDS
        if self._trusted(agent) and (chunks := self._from_agent(agent)) is not None:
            yield from self._texts(chunks)
            return
        clock = time.monotonic()
        yield from self._texts(self._from_dashboard(node_id))
        needed = SHARE * (time.monotonic() - clock)
        self.pause_seconds = min(LONGEST_PAUSE_SECONDS, max(POLL_SECONDS, needed))

    def rest(self) -> str:
        """What is left of a character that the job did not finish."""
        return self._decoder.decode(b"", final=True)

    def _trusted(self, agent: str) -> bool:
        """Whether the token may go to an address that the dashboard names."""
        return self._within or urlsplit(agent).hostname == urlsplit(self._url).hostname

    def _texts(self, chunks: Iterator[bytes]) -> Iterator[str]:
        for chunk in chunks:
            self._offset += len(chunk)
            if text := self._decoder.decode(chunk):
                yield text

    def _from_agent(self, agent: str) -> Iterator[bytes] | None:
        """What is new, or None where the agent cannot be asked."""
        import requests

        try:
            reply = dashboard.get(
                f"{agent}/logs/job-driver-{self._id}.log",
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                headers={"Range": f"bytes={self._offset}-", "Accept-Encoding": "identity"},
            )
        except requests.RequestException:
            if self._reached:  # it is busy, or gone; both will show
                raise NotReadyError(f"the agent at {agent} does not answer", "See `ctl status`.") from None
            return None
        self._reached = self._reached or reply.status_code in (206, 416)
        if reply.status_code == 416:  # nothing is behind the offset
            reply.close()
            return iter(())
        if reply.status_code == 206:
            return _chunks(reply, 0)
        reply.close()
        return None

    def _from_dashboard(self, node_id: str) -> Iterator[bytes]:
        with dashboard.lost(self._url):
            path = WHOLE.format(node_id=node_id, job_id=self._id)
            reply = dashboard.get(self._url + path, timeout=(CONNECT_SECONDS, READ_SECONDS))
        if reply.ok:
            return _chunks(reply, self._offset)
        with reply:
            said = reply.text
        if ABSENT in said:
            return iter(())
        raise NotReadyError(f"the log of job {self._id} cannot be read: {said.strip()[:300]}", "See `ctl status`.")


def _chunks(reply: Any, skipped_bytes: int) -> Iterator[bytes]:
    """The bytes of a reply behind the first few. Raises NotReadyError where it breaks off."""
    with reply, dashboard.lost(reply.url):
        for chunk in reply.iter_content(CHUNK_BYTES):
            if fresh := chunk[skipped_bytes:]:
                yield fresh
            skipped_bytes = max(0, skipped_bytes - len(chunk))
