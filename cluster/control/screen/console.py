"""The edge towards people: errors and interruptions become one sentence and an exit code."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable

from cluster.core import signals
from cluster.core.errors import InterruptedRun, JobError, NotReadyError, TrunklineError, gist


def guarded(work: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run `work` and return the exit code; print a failure as one sentence on stderr (`debug`: with traceback)."""
    if debug:
        os.environ["TRUNKLINE_DEBUG"] = "1"  # Ray's logs and its workers' output are shown, too
    else:
        os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' progress bars: compressed-tensors asks for its own
        # DeepSpeed warns where it finds no GPU, when transformers imports it, and sets its logger's level itself.
        logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks must not end a run
    joined = _joined()
    with signals.as_interrupts():
        cause: BaseException | None = None
        try:
            code = work() or 0
        except (Exception, KeyboardInterrupt) as raised:
            cause = raised
        with signals.held():
            if cause:
                code = _tell(cause, debug)
            if _joined() and not joined:  # here, where a signal does not kill us half-way and leave processes behind
                from cluster.control import runtime

                runtime.disconnect()
    return code


def _joined() -> bool:
    """Whether this process belongs to a Ray cluster."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _tell(cause: BaseException, debug: bool) -> int:
    """Print a failure; return its exit code."""
    error = as_sentence(cause)
    if debug:
        traceback.print_exception(cause)
    where = _logs() if isinstance(error, JobError) else ""
    print(f"ctl: {error}{where}", file=sys.stderr)
    return error.exit_code


def _logs() -> str:
    """Where to read more of work that failed on a cluster."""
    if "ray" not in sys.modules:
        return ""
    from cluster.control import runtime

    folder = runtime.logs_folder()
    return f" The workers' logs are in {folder}." if folder else ""


def interrupted(raised: KeyboardInterrupt) -> InterruptedRun:
    """Ctrl-C, SIGTERM or SIGHUP as an error for people."""
    how = f"stopped by {raised}" if isinstance(raised, signals.Terminated) else "interrupted"
    return InterruptedRun(how, "Run the same command to resume.")


def as_sentence(error: BaseException) -> TrunklineError:
    """Any error as one that has a sentence, a remedy and an exit code; what Ray or a library wrapped is unwrapped."""
    if isinstance(error, KeyboardInterrupt):
        return interrupted(error)
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
    return JobError(f"{type(error).__name__}: {gist(str(error))}", "This was not foreseen: --debug shows where.")


def _from_os(error: OSError) -> TrunklineError:
    where = error.filename or "the disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotReadyError(
            f"{where}: no space left on the device",
            "Free some (`ctl artifacts gc`) and run the same command to resume.",
        )
    return NotReadyError(f"{where}: {error.strerror}", "Check the permissions.")
