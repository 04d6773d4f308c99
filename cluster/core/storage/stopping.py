"""Stopping a thread from another: for work that must not go on, wherever it is."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNAL = signal.SIGUSR2  # wakes a main thread that waits outside of Python


class Stopped(BaseException):
    """Raised in the thread that is to stop. No Exception, so that no retry takes it for one of its own."""


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Gives a function that raises Stopped in the thread of this block, once, wherever in the block it is.

    A main thread is woken from whatever it waits for; another one when it next runs Python.
    """
    thread, main = threading.get_ident(), threading.current_thread() is threading.main_thread()
    lock = threading.Lock()
    ended = False

    def stop() -> None:
        with lock:
            if ended:
                return
            if main:
                signal.pthread_kill(thread, SIGNAL)
            else:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stopped))

    def handle(number: int, frame: FrameType | None) -> None:
        if not ended:
            raise Stopped

    previous = signal.signal(SIGNAL, handle) if main else None
    try:
        try:
            yield stop
        finally:
            with lock:
                ended = True
                if not main:  # asked for, and not raised yet
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)
    finally:
        if main:
            signal.signal(SIGNAL, previous)
