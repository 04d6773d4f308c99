"""A port of a host's loopback as a port of ours, through SSH, for as long as this process lives.

The far end is `cat` on our pipe: where this process is killed, the pipe closes, and SSH ends by itself. In a session of
its own it outlives Ctrl-C, after which a job is still to be stopped through it.
"""

from __future__ import annotations

import atexit
import select
import subprocess
import tempfile
from contextlib import suppress

from cluster.control import ports
from cluster.control.clusters.connection import CONNECT_SECONDS, Connection
from cluster.core.errors import NotReadyError

OPEN_SECONDS = 3.0 * CONNECT_SECONDS
TRIES = 3  # another process may take the free port before SSH does
READY = b"ready\n"


class Tunnel:
    """Open from the beginning; `port` is ours, on loopback."""

    def __init__(self, connection: Connection, far_port: int) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # SSH writes to it as long as it lives
        for attempt in range(TRIES):
            self.port = ports.free()
            forward = ("-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{self.port}:127.0.0.1:{far_port}")
            self._process = subprocess.Popen(
                connection.command(["cat"], *forward),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,
            )
            line = self._answer()
            if line == READY:
                atexit.register(self.close)
                return
            self.close()
            self._said.seek(0)
            said = self._said.read().decode(errors="replace")
            if line is None:
                raise NotReadyError(
                    f"{connection.host} does not answer within {OPEN_SECONDS:.0f} s", "Look whether it is well."
                )
            if "forward" not in said or attempt + 1 == TRIES:
                raise connection.lost(said)

    @property
    def is_open(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):  # it has ended by itself
                    pipe.close()
        self._process.terminate()
        self._process.wait()

    def _answer(self) -> bytes | None:
        """What the far end sends back of what it got: SSH is there, and the port with it. None: nothing in time."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # it has ended by itself, and its output says so
            self._process.stdin.write(READY)
            self._process.stdin.flush()
        there, _, _ = select.select([self._process.stdout], [], [], OPEN_SECONDS)
        return self._process.stdout.readline() if there else None
