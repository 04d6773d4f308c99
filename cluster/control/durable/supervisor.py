"""Runs a job: a light process on the head that starts the user's program, and outlives it to say how it went.

It holds the job's lease while it lives, keeps the output and what happened in the store, starts another attempt where
that may help, and writes down the end. It imports no Ray. Where it loses the lease, because another runs the job by
now, it ends its program and writes nothing more.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Literal

import msgspec

from cluster.control.durable import hooks, references
from cluster.control.durable.child import Child
from cluster.control.durable.output import Output
from cluster.control.durable.records import ID_VARIABLE, STORE_VARIABLE, JobRecord
from cluster.control.durable.shapes import Ended, State, Submitted, now
from cluster.control.durable.telling import ATTEMPT_VARIABLE
from cluster.control.durable.turns import Turn, capacity_of
from cluster.core.clusters.meant import meant
from cluster.core.errors import JobError, NotReadyError, TrunklineError
from cluster.core.storage.holder import TTL_SECONDS
from cluster.core.storage.location import Location

LONGEST_BACKOFF_SECONDS = 600.0
GRACE_SECONDS = 30.0  # that a program which is to end gets to save its work
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
OVERTIME = 124  # as `timeout` has it


class Supervisor:
    """One process that runs a job, through as many attempts as its policy has."""

    def __init__(self, root: Location, submitted: Submitted, ttl_seconds: float = TTL_SECONDS) -> None:
        self.root, self.submitted, self.policy = root, submitted, submitted.policy
        self.record = JobRecord(root, submitted.id)
        self.ttl_seconds = ttl_seconds
        self.attempt = 0
        self.started_at = ""
        self._handed = len(self.record.handed())
        self._stopping = threading.Event()  # asked to, or because the lease is lost
        self._lost = False
        cluster = meant().address
        self._turn = Turn(root, submitted, cluster, self._wait, lambda: capacity_of(cluster))
        self._child: Child | None = None
        self._output: Output | None = None

    def run(self) -> int:
        """Run it to its end; the exit code of the last attempt."""
        if not self.record.create(self.submitted):
            self.submitted = self.record.submitted() or self.submitted  # the first that had this id counts
            self.policy, self._turn.submitted = self.submitted.policy, self.submitted
        if ended := self.record.ended():
            self._say(f"job {self.record.id} has ended: {ended.state}")
            return ended.exit_code or 0
        before = {number: signal.signal(number, self._interrupt) for number in SIGNALS}
        try:
            return self._attempts()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # -- attempts -----------------------------------------------------------------------------------------------

    def _attempts(self) -> int:
        lease = self.record.lease(self.ttl_seconds, self._lose)
        if not lease.acquire():
            raise NotReadyError(f"job {self.record.id} is being run already", "See `ctl jobs show`.")
        tried, again = 0, True
        try:
            while again:
                if tried:
                    lease.renumber()
                self.attempt = lease.number
                self._output = Output(self.root, self.record.id, self.attempt)
                try:
                    code, again = self._one(tried)
                finally:
                    if not self._lost:
                        self._output.close()
                tried += 1
            return code
        finally:
            lease.release()

    def _one(self, tried: int) -> tuple[int, bool]:
        """One attempt: its exit code, and whether another follows."""
        self._tell_state("WAITING")
        if tried and not self._pause(self._backoff_seconds(tried)):
            return self._end_stopped(130)
        try:
            self._turn.take(self._stopping)
        except TrunklineError as error:
            self._write(f"ctl: {error}\n".encode())
            self._end("FAILED", error.exit_code, str(error))
            return error.exit_code, False
        if self._stopping.is_set():
            return self._end_stopped(130)
        self.started_at = self.started_at or now()
        self._tell_state("RUNNING")
        lost = self.attempt > 1 and not tried
        said = f"attempt {self.attempt} began" + (": the process that ran the one before was lost" if lost else "")
        self._event("started", said, tell=lost)
        try:
            code, overtime = self._run_child()
        except TrunklineError as error:
            self._write(f"ctl: {error}\n".encode())
            self._end("FAILED", error.exit_code, str(error))
            return error.exit_code, False
        if self._lost:
            raise JobError(f"job {self.record.id} is run by another process by now", "See `ctl jobs show`.")
        if self._stopping.is_set():
            return self._end_stopped(code)
        if code == 0:
            self._end("SUCCEEDED", 0, "")
            return 0, False
        message = f"it ran longer than {self.policy.max_runtime_seconds:g} s" if overtime else ""
        if not overtime and code in self.policy.retry_codes and tried < self.policy.retries:
            pause = self._backoff_seconds(tried + 1)
            said = f"exit code {code}: attempt {tried + 2} of {self.policy.retries + 1} in {pause:g} s"
            self._say(said)
            self._event("retry", said)
            return code, True
        self._end("FAILED", OVERTIME if overtime else code, message)
        return (OVERTIME if overtime else code), False

    def _backoff_seconds(self, tried: int) -> float:
        return min(LONGEST_BACKOFF_SECONDS, self.policy.backoff_seconds * 2.0 ** (tried - 1))

    def _pause(self, seconds: float) -> bool:
        """Wait before another attempt; False where the job is to stop."""
        self._wait(f"for {seconds:g} s, until another attempt")
        return not self._stopping.wait(seconds)

    def _run_child(self) -> tuple[int, bool]:
        """Run the program; its exit code, and whether it ran too long."""
        environment = dict(os.environ)
        for name, reference in self.policy.secrets.items():
            environment[name] = references.value(reference)
        environment |= {ID_VARIABLE: self.record.id, STORE_VARIABLE: self.root.url, ATTEMPT_VARIABLE: str(self.attempt)}
        limit = self.policy.max_runtime_seconds
        deadline = time.monotonic() + limit if limit else None
        try:
            self._child = child = Child(self.submitted.command, environment, self._write)
        except OSError as error:
            raise JobError(f"{self.submitted.command[0]} cannot be started: {error.strerror}") from None
        if self._stopping.is_set():  # between the look and the start
            child.signal(signal.SIGTERM)
        code = child.wait(lambda: time.monotonic() if self._lost else deadline, GRACE_SECONDS)
        self._child = None
        return code, deadline is not None and time.monotonic() >= deadline and not self._stopping.is_set()

    # -- what is told -------------------------------------------------------------------------------------------

    def _end_stopped(self, code: int) -> tuple[int, bool]:
        if self._lost:
            raise JobError(f"job {self.record.id} is run by another process by now", "See `ctl jobs show`.")
        self._end("STOPPED", code, "it was stopped")
        return code or 130, False

    def _end(self, state: Ended, code: int, message: str) -> None:
        assert self._output
        self._turn.leave()
        self._output.close()  # first: of a job that has ended the log is whole
        self.record.end(state, code, message, self.attempt)
        said = f"{state.lower()}{f' with exit code {code}' if code else ''}{message and ': ' + message}"
        self._event(state.lower(), said)

    def _event(self, kind: str, text: str, tell: bool = True) -> None:
        self.record.event(kind, text, self.attempt)
        if tell and self.policy.notify:
            message = hooks.payload(self.record.id, kind, text, self.attempt)
            hooks.notify(self.policy.notify, message, lambda why: self.record.event("hook", why, self.attempt))

    def _wait(self, message: str) -> None:
        """Say what it waits for."""
        self._tell_state("WAITING", message)
        self._say(f"waiting {message}")  # whoever reads this finds it in the state

    def _tell_state(self, state: Literal["WAITING", "RUNNING"], message: str = "") -> None:
        self.record.write_state(
            State(attempt=self.attempt, state=state, message=message, started_at=self.started_at, handed=self._handed)
        )

    def _say(self, text: str) -> None:
        self._write(f"job: {text}\n".encode())

    def _write(self, data: bytes) -> None:
        if self._output and not self._lost:
            self._output.write(data)
        while data:
            data = data[os.write(1, data) :]

    # -- being ended --------------------------------------------------------------------------------------------

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        first = not self._stopping.is_set()
        self._stopping.set()
        if self._child and first:
            self._child.signal(number)

    def _lose(self) -> None:
        """Called by the lease's thread: another process runs the job by now, or may."""
        self._lost = True
        self._stopping.set()


def main() -> int:
    """`python -m cluster.control.durable.supervisor FILE`: run the job that a file says, for $TRUNKLINE_STORE."""
    try:
        submitted = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Submitted)
        return Supervisor(Location(os.environ[STORE_VARIABLE]), submitted).run()
    except TrunklineError as error:
        print(f"ctl: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
