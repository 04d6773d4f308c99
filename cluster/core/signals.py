"""SIGTERM and SIGHUP (a dropped SSH session) as interruptions: they end a run in order, just as Ctrl-C does.

They raise a KeyboardInterrupt, which no library's `except Exception` swallows. What the parent has us ignore (`nohup`)
stays ignored.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP)
AGAIN_SECONDS = 0.1
SETTLE_SECONDS = 5.0  # a service manager sends both at once: the second is the same wish, and must not cut a checkpoint

_held = False
_heard = -SETTLE_SECONDS
_terminals: tuple[int, ...] = ()


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, by its name."""


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise Terminated in the main thread.

    Python drops what is raised while an object is destroyed. An interruption, Ctrl-C as well, that meets such a moment
    is sent again.
    """
    global _terminals
    hook = sys.unraisablehook
    sys.unraisablehook = functools.partial(_send_again, hook)
    _terminals = tuple(number for number in (1, 2) if os.isatty(number))
    before = {number: signal.getsignal(number) for number in ENDING}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in ours:
            signal.signal(number, before[number])


def _send_again(hook: Callable[[Any], None], dropped: Any) -> None:
    global _heard
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        hook(dropped)
        return
    number = signal.Signals[str(dropped.exc_value)] if dropped.exc_type is Terminated else signal.SIGINT
    _heard = -SETTLE_SECONDS
    again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _heard
    _leave_lost_terminal()
    if _held or time.monotonic() - _heard < SETTLE_SECONDS:
        return
    _heard = time.monotonic()
    ctrl_c: Any = signal.getsignal(signal.SIGINT)
    if callable(ctrl_c) and ctrl_c is not signal.default_int_handler:
        ctrl_c(signal.SIGINT, frame)  # whoever ends in order on Ctrl-C (Ray Tune) does so here, too
        return
    raise Terminated(signal.Signals(number).name)


def _leave_lost_terminal() -> None:
    """Have what is still printed go nowhere where the terminal is gone: an error of it would stop the saving."""
    for number in _terminals:
        if not os.isatty(number):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


@contextmanager
def held() -> Iterator[None]:
    """Within, a further SIGTERM or SIGHUP does nothing: the run ends already. Ctrl-C still ends it at once."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False


@contextmanager
def kept() -> Iterator[None]:
    """Keep our handlers where a library sets its own within, as `ray.init` does: that one exits with code 15.

    Where there was none, as in a program that calls `build` itself, Ray's stays: it ends the run in order, too.
    Processes that are started within do not end by SIGHUP, which a terminal sends to all: the checkpoint needs them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM and handler is _interrupt:
            raise Terminated(signal.SIGTERM.name) from None
        raise
    finally:
        if handler is not signal.SIG_DFL:
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
