"""The program of one attempt: started, copied to our own output and to the store, ended in time, and waited for."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

READ_BYTES = 1 << 16
LAST_WORDS_SECONDS = 0.5  # for what a process of its own still writes when the program has ended
PR_SET_PDEATHSIG = 1


class Child:
    """A process whose output goes through ours. It ends with us: nobody would know of it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], write: Callable[[bytes], None]) -> None:
        """Raises OSError where the command cannot be started."""
        self._write = write
        prctl = ctypes.CDLL(None).prctl
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        self._ended = os.pidfd_open(self._process.pid)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, ending: Callable[[], float | None], grace_seconds: float) -> int:
        """Copy its output until it ends; its exit code, of a signal as a shell has it: 128 and the number.

        `ending` gives the moment (`time.monotonic()`) at which it is asked to end, or None. If it has not
        `grace_seconds` later, it is killed.
        """
        assert self._process.stdout
        output = self._process.stdout.fileno()
        asked_at: float | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            while self._process.poll() is None:
                deadline = asked_at + grace_seconds if asked_at else ending()
                wait = 1.0 if deadline is None else min(1.0, max(0.0, deadline - time.monotonic()))
                for key, _ in selector.select(wait):
                    if key.fd == output and not self._copy(output):
                        selector.unregister(output)
                if deadline is not None and time.monotonic() >= deadline and self._process.poll() is None:
                    self.signal(signal.SIGKILL if asked_at else signal.SIGTERM)
                    asked_at = asked_at or time.monotonic()
            while output in selector.get_map() and any(
                key.fd == output for key, _ in selector.select(LAST_WORDS_SECONDS)
            ):
                if not self._copy(output):
                    break
        os.close(self._ended)
        self._process.stdout.close()
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    def _copy(self, output: int) -> bool:
        """Pass on what there is; False at the end."""
        data = os.read(output, READ_BYTES)
        if data:
            self._write(data)
        return bool(data)
