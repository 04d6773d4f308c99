"""What a job's own program says of itself into the job's record: that it waits, that it goes on, what has happened."""

from __future__ import annotations

import os
import threading

import msgspec

from cluster.control.durable import hooks
from cluster.control.durable.records import this_job
from cluster.control.durable.shapes import State

ATTEMPT_VARIABLE = "TRUNKLINE_JOB_ATTEMPT"


def waits(message: str) -> None:
    """The job waits, for `message`; empty: it goes on. Nothing happens where this process is no job's."""
    job = this_job()
    if job is None or ATTEMPT_VARIABLE not in os.environ:
        return
    attempt = int(os.environ[ATTEMPT_VARIABLE])
    state = job.state() or State(attempt=attempt, state="RUNNING")
    job.write_state(msgspec.structs.replace(state, state="WAITING" if message else "RUNNING", message=message))
    job.event("waiting" if message else "going-on", f"waiting {message}" if message else "it goes on", attempt)


def happened(kind: str, text: str) -> None:
    """Something that people want to hear of: it is written down, and the job's hooks are told, without waiting for
    them. Nothing happens where this process is no job's."""
    job = this_job()
    if job is None or ATTEMPT_VARIABLE not in os.environ:
        return
    attempt = int(os.environ[ATTEMPT_VARIABLE])
    job.event(kind, text, attempt)
    submitted = job.submitted()
    if submitted and submitted.policy.notify:
        message = hooks.payload(job.id, kind, text, attempt)
        told = (submitted.policy.notify, message, lambda why: job.event("hook", why, attempt))
        threading.Thread(target=hooks.notify, args=told, name="hooks").start()
