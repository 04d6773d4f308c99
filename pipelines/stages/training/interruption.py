"""What may ask a run from outside to save: a notice that a node will go, SIGTERM, or the driver's wish to stop.

The loop asks once a step and all ranks agree on the answer, so that one rank's notice has all of them save.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any, NamedTuple

from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_put
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context

LOOK_SECONDS = 1.0  # between two looks at whether the driver wants to stop
_terminated = False


class Request(NamedTuple):
    """What this rank wants of the run: to save now; to save and end."""

    save: bool
    stop: bool


class Undisturbed:
    """A run that nobody interrupts."""

    def asked(self) -> Request:
        return Request(save=False, stop=False)

    def saved(self) -> None:
        """The state is written, by all ranks."""


class Interruption(Undisturbed):
    """The view of a worker of Ray Train's. `run` names the training run in the cluster."""

    def __init__(self, run: str, rank: int) -> None:
        self.run, self.rank = run, rank
        self._looked = time.monotonic()
        self._stop = False
        self._noticed = False

    def asked(self) -> Request:
        if self.rank == 0 and not self._stop and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._stop = bool(_internal_kv_exists(_key(self.run)))
        notice = get_train_context().preemption_context.preemption_info is not None and not self._noticed
        return Request(save=notice or _terminated, stop=self._stop)

    def saved(self) -> None:
        """After SIGTERM end this worker, which has a deadline: Ray starts the group again elsewhere, from here."""
        self._noticed = get_train_context().preemption_context.preemption_info is not None
        if _terminated:
            os._exit(128 + signal.SIGTERM)


class HoldOnTerminate(WorkerGroupCallback):
    """Has every worker finish its step and save when it gets SIGTERM, instead of dying."""

    def after_worker_group_start(self, worker_group: Any) -> None:
        worker_group.execute(_install)


def _install() -> None:
    def note(signum: int, frame: Any) -> None:
        global _terminated
        _terminated = True

    signal.signal(signal.SIGTERM, note)


def ask_to_stop(run: str) -> None:
    """Have a run save and end. Called by its driver."""
    _internal_kv_put(_key(run), b"")


def _key(run: str) -> bytes:
    return f"trunkline-stop:{run}".encode()
