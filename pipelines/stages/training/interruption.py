"""What may ask a run from outside to save: a notice that a node will go, SIGTERM, or the driver's wish to stop.

The loop asks once a step and all ranks agree on the answer, so that one rank's notice has all of them save.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_put
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller.state import PreemptingState, RestartingState

from cluster.control.durable import telling
from cluster.core.errors import gist

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


class TellLosses(ControllerCallback):
    """Tells people, and the job's hooks, that workers will lose their node or were lost. Runs in the controller."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice

    def __reduce__(self) -> Any:
        return TellLosses, (print,)  # with Ray's configuration of the run it travels to the workers, and is idle there

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if isinstance(current_state, PreemptingState):
            self._tell("preempted", _announced(current_state.preemption_info))
        elif isinstance(current_state, RestartingState):
            self._tell("restarted", "training workers were lost: the group begins again from the last checkpoint")

    def _tell(self, kind: str, text: str) -> None:
        self._notice(text)
        try:
            telling.happened(kind, text)
        except Exception as error:  # of any object store: Ray would end the run for it
            self._notice(f"this is not written down: {gist(str(error))}")


def _announced(info: Any) -> str:
    """Which ranks lose their node, and when, where that is known."""
    ranks = info.preempted_ranks
    who = f"training worker {ranks[0]}" if len(ranks) == 1 else f"training workers {', '.join(map(str, ranks))}"
    when = f" in {max(0.0, info.deadline_ms / 1000 - time.time()):.0f} s" if info.deadline_ms else ""
    return f"{who} will lose {'its' if len(ranks) == 1 else 'their'} node{when}: a checkpoint is written first"


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
