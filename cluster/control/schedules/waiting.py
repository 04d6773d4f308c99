"""The program of a job that is a schedule: it waits until a run is due, and has it begun as a job of its own.

So a schedule needs nothing that other jobs do not have: it is listed, logged, stopped, and handed to another cluster
where its head was lost. What was due meanwhile is made up for once. One run goes at a time.
"""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import threading

from cluster.control.durable import telling
from cluster.control.durable.records import JobRecord, this_job
from cluster.control.durable.shapes import LOST
from cluster.control.schedules import times
from cluster.control.schedules.runs import due_of, last_run, run_id
from cluster.core.errors import NotReadyError

LOOK_SECONDS = 60.0  # at most, between two looks at the clock, which may be set
TRIES, AGAIN_SECONDS = 3, 60.0  # for a run that the cluster did not take
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOPPED = 130


class Waiting:
    """One process that waits for the runs of a schedule."""

    def __init__(self, record: JobRecord) -> None:
        submitted = record.submitted()
        assert submitted and submitted.schedule
        self.record, self.schedule = record, submitted.schedule
        self.begun = times.parsed(submitted.submitted_at)
        self._last = last_run(record.root, record.id)
        self.met = due_of(self._last.id) if self._last else None
        """The last time of which nothing is left to do."""
        self._stopping = threading.Event()
        self._told: datetime.datetime | None = None

    def wait(self) -> int:
        """Wait and have runs begun, until it is stopped or no time is left; the exit code."""
        if self._last and self._last.status == "PENDING":  # the head was lost that it had been handed to
            self._begin(self._last.id)
        while not self._stopping.is_set():
            now = datetime.datetime.now(datetime.UTC)
            due = times.latest(self.schedule, self.begun, now)
            if due and (self.met is None or due > self.met):
                self.meet(due)
                self._told = None
                continue
            following = times.following(self.schedule, self.begun, now)
            if following is None:
                print("there is no further time", flush=True)
                return 0
            if following != self._told:
                self._told = following
                telling.waits(f"until {following.isoformat(timespec='seconds')}")
            self._stopping.wait(min(LOOK_SECONDS, (following - now).total_seconds()))
        return STOPPED

    def stop(self) -> None:
        self._stopping.set()

    def meet(self, due: datetime.datetime) -> None:
        """Have the run begun that is due, unless the one before it goes on."""
        self.met = due
        job_id = run_id(self.record.id, due)
        last = last_run(self.record.root, self.record.id)
        if last and not last.ended and last.status != LOST:
            self._tell("left-out", f"{job_id} is left out: {last.id} is {last.status}")
            return
        for attempt in range(1, TRIES + 1):
            code = self._begin(job_id)
            if code == 0:
                print(job_id, flush=True)
                return
            if code != NotReadyError.exit_code or attempt == TRIES or self._stopping.wait(AGAIN_SECONDS):
                break
        if not self._stopping.is_set():
            self._tell("not-begun", f"{job_id} could not be begun, see the log of {self.record.id}")
        run = JobRecord(self.record.root, job_id)
        if run.submitted():  # else it would be waited for
            run.end("FAILED", None, "it could not be handed to the cluster")

    def _begin(self, job_id: str) -> int:
        """In a process of its own: what it imports is needed for a moment, and is the user's."""
        command = [sys.executable, "-m", "cluster.control.schedules.runs", job_id]
        return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode

    def _tell(self, kind: str, text: str) -> None:
        print(text, flush=True)
        telling.happened(kind, text)


def main() -> int:
    """`python -m cluster.control.schedules.waiting`: be the program of the job that this process is part of."""
    record = this_job()
    if record is None:
        print("ctl: this process is part of no job", file=sys.stderr)
        return NotReadyError.exit_code
    waiting = Waiting(record)
    for number in SIGNALS:
        signal.signal(number, lambda *_: waiting.stop())
    return waiting.wait()


if __name__ == "__main__":
    sys.exit(main())
