"""What is written down of a job, and how it is told."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import msgspec

from cluster.core.storage.artifact import Code

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
LOST = "LOST"
LOST_MESSAGE = "the process that ran it is gone without a word: its head or its machine was lost, or it was killed"

Ended = Literal["SUCCEEDED", "FAILED", "STOPPED"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How a job is run, whatever it computes."""

    retries: int = 3
    """Further attempts after one that ended by a code of `retry_codes`, or was lost with its head."""
    retry_codes: tuple[int, ...] = (75,)
    """Exit codes that another attempt may cure; 75: a node was lost."""
    backoff_seconds: float = 10.0
    """Pause before the second attempt; each further one is twice as long, up to ten minutes."""
    max_runtime_seconds: float = 0.0
    """An attempt that runs longer is ended, and the job failed; 0: no limit."""
    after: tuple[str, ...] = ()
    """Jobs of the same store that must have succeeded before it begins."""
    queue: bool = False
    """Whether it waits for its turn: until what it asks for is free beside the jobs that run."""
    priority: int = 0
    """Of jobs that wait the highest goes first."""
    notify: tuple[str, ...] = ()
    """Webhooks, as `env:NAME` or `file:PATH` where it runs: their addresses are secrets."""
    secrets: dict[str, str] = {}
    """Environment variable to `env:NAME` or `file:PATH` where it runs."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When a pipeline is to be run again and again, and what each run is made of: by then inputs may mean others."""

    every_seconds: float = 0.0
    """Between two runs, the first of which begins at once; 0: as `cron` says."""
    cron: str = ""
    """Five fields of cron, or one of its words."""
    time_zone: str = "UTC"
    """Of `cron`."""
    config: str = ""
    """What `--config` had in it."""
    sets: tuple[str, ...] = ()
    """`--set`, as typed."""
    scaling: dict[str, Any] = {}
    command: tuple[str, ...] = ()
    """Of each run."""
    policy: Policy = Policy()
    """Of each run."""


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """What was submitted, resolved once: this is what runs, in every attempt."""

    id: str
    name: str
    command: tuple[str, ...]
    submission: dict[str, Any]
    """Script, fields and inputs, to submit it again."""
    asked: str
    """A digest of what was asked for: script, changes and name, before anything was resolved."""
    policy: Policy = Policy()
    package: str = ""
    """SHA-256 of the code that travels, in the store's `.jobs/packages`; empty where it was not kept."""
    environment: dict[str, str] = {}
    demand: dict[str, float] = {}
    """What the job asks of the cluster: CPU, GPU."""
    code: Code = Code("", "")
    user_code: Code | None = None
    user: str = ""
    host: str = ""
    submitted_at: str = ""
    cluster: str = ""
    """Whose turn it waits for: the dashboard that it was handed to."""
    retry_of: str = ""
    schedule: Schedule | None = None
    """Of a job that waits, and submits others; None: it is none."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a job is at, as the process says that runs it."""

    attempt: int
    state: Literal["WAITING", "RUNNING"]
    message: str = ""
    started_at: str = ""
    """When the program of the first attempt began."""
    handed: int = 0
    """How often the job had been handed to a cluster when the process began that says this."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended; what a listing needs stands here as well, so that it reads one file."""

    state: Ended
    attempt: int
    exit_code: int | None
    message: str
    submitted_at: str
    started_at: str
    ended_at: str
    entrypoint: str = ""


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """A job given to a cluster."""

    ray_id: str
    cluster: str
    at: str
    context: str = ""
    """Name of the context that meant it; empty: none did."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a job."""

    at: str
    attempt: int
    kind: str
    text: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is told; times are ISO 8601, empty where there is none yet.

    PENDING: no process has begun it. WAITING, RUNNING: one has, and lives. LOST: it is gone, and left no end.
    """

    id: str
    status: str
    entrypoint: str
    message: str
    exit_code: int | None
    started_at: str
    ended_at: str
    submitted_at: str = ""
    attempt: int = 0

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
