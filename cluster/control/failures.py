"""What goes wrong in a worker, brought to the process that asked for the work: the error itself.

Ray wraps an error in layers of its own, drops its cause and writes into its message. So what a task of ours raises
travels as a value (`Failure`); what an actor or a training worker raises is taken out of Ray's layers (`original`).
"""

from __future__ import annotations

import pickle
import re
import traceback
from typing import NamedTuple

from cluster.core import errors
from cluster.core.errors import JobError, LostNodeError, TrunklineError, gist

OUT_OF_MEMORY = "Lower scaling.data_workers or scaling.num_workers, or give the machine more memory; then run it again."
AGAIN = "Run the same command again: it goes on from what was finished."
DIED = "Often its memory ran out: lower scaling.data_workers, or run again to resume; --debug shows its last output."

_OURS = re.compile(r"^cluster\.core\.errors\.(\w+Error): (.+)$", re.MULTILINE)


class Failure(NamedTuple):
    """An error on its way: pickled, or empty where that cannot be done, and in words."""

    pickled: bytes
    words: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """An error as a value; where it was raised goes with it as a note, which `--debug` shows."""
        from ray import cloudpickle

        lines = traceback.format_exception(type(error), error, error.__traceback__)
        error.add_note(f"Raised in a worker:\n{''.join(lines).rstrip()}")
        try:
            pickled = cloudpickle.dumps(error) if isinstance(error, Exception) else b""
            pickle.loads(pickled or pickle.dumps(None))  # some can be written and not be made again
        except Exception:
            pickled = b""
        return cls(pickled, describe(error))

    def error(self) -> Exception:
        """The error that it was, or a JobError that says the same where its class is not to be had here."""
        try:
            error = pickle.loads(self.pickled) if self.pickled else None
        except Exception:
            error = None
        return error if isinstance(error, Exception) else JobError(self.words, "--debug shows the whole error.")


def original(error: BaseException) -> BaseException:
    """What was raised in a worker, out of all layers that Ray wraps around it."""
    from ray import exceptions as ray_errors

    met = [error]
    while True:
        inner = getattr(met[-1], "cause", None)
        # What ours are raised from is a detail; Ray's own errors but these two wrap none.
        is_layer = isinstance(met[-1], ray_errors.RayTaskError | ray_errors.UserCodeException)
        if inner is None and (is_layer or not isinstance(met[-1], TrunklineError | ray_errors.RayError)):
            inner = met[-1].__cause__
        if not isinstance(inner, BaseException) or any(inner is seen for seen in met):
            return met[-1]
        met.append(inner)


def explained(error: BaseException, what: str) -> TrunklineError:
    """An error that came through Ray as one for people: itself where it is ours, else that `what` failed or died.

    `what` is a subject, such as `rollout engine 3` or `a data worker`.
    """
    from ray import exceptions as ray_errors

    inner = original(error)
    if isinstance(inner, TrunklineError):
        return inner
    if ours := _OURS.search(str(inner)):  # of an actor that could not begin Ray keeps the traceback alone
        cls: type[TrunklineError] = getattr(errors, ours[1], JobError)
        return cls(ours[2])
    if isinstance(inner, ray_errors.OutOfMemoryError):
        return JobError(f"{what} was ended because the machine's memory ran out", OUT_OF_MEMORY)
    if isinstance(inner, ray_errors.GetTimeoutError):
        return JobError(f"{what} did not answer in time", "Raise scaling.rollout_timeout_seconds.")
    if lost_its_node(inner):
        return LostNodeError(f"{what} is gone with its node", AGAIN)
    began = not getattr(inner, "actor_init_failed", False)
    if isinstance(inner, ray_errors.WorkerCrashedError | ray_errors.RayActorError | ray_errors.NodeDiedError) and began:
        return JobError(f"{what} died: its process was killed or crashed", DIED)
    words = describe(inner) if began else gist(str(inner))
    return JobError(f"{what} failed: {words}", "--debug shows the whole error.")


def describe(error: BaseException) -> str:
    """Type and message in one line: `KeyError: 'text'`."""
    return f"{type(error).__name__}: {gist(str(error))}"


def lost_its_node(error: BaseException) -> bool:
    """Whether what Ray raises means that a machine is gone, and not a process alone."""
    from ray import exceptions as ray_errors

    if isinstance(error, ray_errors.NodeDiedError) or getattr(error, "preempted", False):
        return True
    words = str(error) if isinstance(error, ray_errors.RayError) else ""
    return any(part in words for part in ("its node has died", "node it was running on is dead", "lost due to node"))
