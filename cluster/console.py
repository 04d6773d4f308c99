"""The edge towards people: errors become one sentence and an exit code; SIGTERM becomes an orderly stop."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from cluster.errors import InterruptedRun, JobError, NotReadyError, TrunklineError


def guarded(work: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run `work` and return the exit code; print a failure as one sentence on stderr (`debug`: with traceback)."""
    if debug:
        os.environ["TRUNKLINE_DEBUG"] = "1"  # Ray's logs and its workers' output are shown, too
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        return work() or 0
    except KeyboardInterrupt as raised:
        cause: BaseException = raised
        error: TrunklineError = InterruptedRun("interrupted", "Run the same command to go on.")
    except Exception as raised:
        cause, error = raised, as_sentence(raised)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if debug:
        traceback.print_exception(cause)
    print(f"ctl: {error}", file=sys.stderr)
    return error.exit_code


def _terminate(number: int, frame: FrameType | None) -> None:
    raise InterruptedRun("stopped by SIGTERM", "Run the same command to go on.")


def as_sentence(error: BaseException) -> TrunklineError:
    """Any error as one that has a sentence, a remedy and an exit code; what Ray or a library wrapped is unwrapped."""
    seen: BaseException | None = error
    met: list[BaseException] = []  # chains of causes may run in a circle
    while seen is not None and seen not in met:
        met.append(seen)
        cause = getattr(seen, "cause", None)  # how Ray carries an error of a task or an actor
        if isinstance(cause, TrunklineError):
            return cause
        if isinstance(seen, TrunklineError):
            return seen
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            return _from_os(seen)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__ or seen.__context__
    text = str(error).strip().splitlines()
    return JobError(
        f"{type(error).__name__}: {text[-1] if text else 'no message'}", "This was not foreseen: --debug shows where."
    )


def _from_os(error: OSError) -> TrunklineError:
    where = error.filename or "the disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotReadyError(
            f"{where}: no space left on the device",
            "Free some (`ctl artifacts gc`) and run the same command to go on.",
        )
    return NotReadyError(f"{where}: {error.strerror}", "Check the permissions.")
