"""Reward functions that go wrong, each in a way of its own, on the sample whose answer is `bad`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import sys
import threading
from typing import Any

from pipelines.stages.alignment.rewards.sample import Sample

NAME = b"tl-orphan"  # of processes that are left behind


def _wait() -> None:
    while True:
        signal.pause()


def raises(sample: Sample) -> float:
    return 1 / (sample.answer != "bad")


def lies(sample: Sample) -> float:
    class Lie(Exception):
        def __str__(self) -> str:
            os._exit(7)

    if sample.answer == "bad":
        raise Lie
    return 1


def returns_nan(sample: Sample) -> float:
    return float("nan") if sample.answer == "bad" else 1


def returns_nothing(sample: Sample) -> float | None:
    return None if sample.answer == "bad" else 1


def exits(sample: Sample) -> float:
    if sample.answer == "bad":
        print("last words", flush=True)
        os._exit(3)
    return 1


def leaves(sample: Sample) -> float:
    return sys.exit("usage: grader") if sample.answer == "bad" else 1  # type: ignore[return-value]


def is_killed(sample: Sample) -> float:
    if sample.answer == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def crashes(sample: Sample) -> float:
    return ctypes.string_at(0)[0] if sample.answer == "bad" else 1


def hangs(sample: Sample) -> float:
    if sample.answer == "bad":
        _wait()
    return 1


def spins(sample: Sample) -> float:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while sample.answer == "bad":
        pass
    return 1


def allocates(sample: Sample) -> float:
    held = []
    while sample.answer == "bad":
        held.append(bytearray(1 << 24))
    return 1


def closes(sample: Sample) -> float:
    if sample.answer == "bad":
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    return 1


def scribbles(sample: Sample) -> float:
    if sample.answer == "bad":
        for descriptor in range(3, 1024):
            with contextlib.suppress(OSError):
                os.write(descriptor, b"[" * 400)
    return 1


def prints(sample: Sample) -> float:
    """A gigabyte."""
    for _ in range(1024 if sample.answer == "bad" else 0):
        os.write(1, bytes(1 << 20))
    return 1


def forks(sample: Sample) -> float:
    """A copy that returns, too, and two that stay, of which one has left the session."""
    if sample.answer == "bad":
        if os.fork() == 0:
            return 5
        for leave in (lambda: None, os.setsid):
            if os.fork() == 0:
                leave()
                if os.fork() == 0:
                    ctypes.CDLL(None).prctl(15, NAME)
                    _wait()
                os._exit(0)
    return 1


def forks_and_exits(sample: Sample) -> float:
    if sample.answer == "bad" and forks(sample) == 1:
        os._exit(0)
    return 1


def changes_all(sample: Sample) -> float:
    """Whatever is global: it returns all the same."""
    random.seed(1)
    import numpy as np

    np.random.seed(1)
    os.environ.clear()
    os.chdir("/")
    sys.setrecursionlimit(60)
    signal.alarm(1)
    sys.stdout = None
    threading.Thread(target=_wait_for_ever, daemon=True).start()
    sample.messages.clear()
    return 1


def _wait_for_ever() -> None:
    threading.Event().wait()


def draws(sample: Sample) -> Any:
    import numpy as np

    return random.random() + np.random.random()
