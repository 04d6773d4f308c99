"""Who holds a thing in the store, and whether they may still be at work: the sign of life of leases and uses.

A process of this machine is asked for at the machine itself; of another machine only the expiry is known, which a
thread of the holder's puts off as long as it lives.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

TTL_SECONDS = 60.0
BEATS = 3  # renewals in the time to live
TRIES = 12  # in the same time, where renewals fail


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds something, as it is written into a file."""

    owner: str
    host: str
    boot: str
    pid: int
    started: str
    expires_at: float  # 0: let go of
    pid_namespace: str = ""  # containers may share a host's name, not its process ids; empty in files of old


def _boot() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux, or hidden from us
        return ""


def _started(pid: int) -> str:
    """Start time of a process in clock ticks, so that a reused pid is not mistaken for the holder; empty if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if stat[0] == "Z" else stat[19]


def this_process(owner: str, ttl_seconds: float) -> Holder:
    """This process as a holder, from now on."""
    return Holder(
        owner=owner,
        host=socket.gethostname(),
        boot=_boot(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        expires_at=time.time() + ttl_seconds,
        pid_namespace=_pid_namespace(),
    )


def let_go(owner: str) -> Holder:
    """This process as a holder that holds no more."""
    return msgspec.structs.replace(this_process(owner, 0), expires_at=0.0)


def new_owner() -> str:
    """What tells one hold from all others, of this process too."""
    return uuid.uuid4().hex


def alive(holder: Holder) -> bool:
    """Whether the holder may still be at work."""
    if not holder.expires_at:
        return False
    if _is_of_this_machine(holder):
        lives = bool(holder.started) and _started(holder.pid) == holder.started
        if is_seen(holder):
            # Whatever the expiry: a laptop that wakes up finds every lease expired, and nobody had the time to renew.
            return lives
        if lives and not holder.pid_namespace:
            return True
    return holder.expires_at >= time.time()


def is_seen(holder: Holder) -> bool:
    """Whether this machine knows at once whether the holder lives; of others the expiry alone tells."""
    return _is_of_this_machine(holder) and bool(holder.pid_namespace) and holder.pid_namespace == _pid_namespace()


def _is_of_this_machine(holder: Holder) -> bool:
    return (holder.host, holder.boot) == (socket.gethostname(), _boot()) and Path("/proc").exists()


class Heartbeat:
    """Calls `beat` now and then in a thread of its own, and `lost` once, where the hold is gone.

    `beat` returns whether the hold still stands. One that raises is tried again, until the last that went well is
    `patience_seconds` old: then others may have taken the thing, and it counts as lost, too.
    """

    def __init__(
        self,
        beat: Callable[[], bool],
        lost: Callable[[], None],
        ttl_seconds: float = TTL_SECONDS,
        patience_seconds: float = math.inf,
    ) -> None:
        self._beat, self._lost = beat, lost
        self._ttl_seconds, self._patience_seconds = ttl_seconds, patience_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self.error: Exception | None = None  # of the last beat

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        went_well = time.monotonic()  # which stands still while a machine sleeps
        pause = self._ttl_seconds / BEATS
        while not self._stop.wait(pause):
            try:
                stands, self.error = self._beat(), None
            except Exception as error:  # of any file system; kept, and raised with what follows from it
                self.error = error
                stands = time.monotonic() - went_well < self._patience_seconds
                pause = self._ttl_seconds / TRIES
            else:
                went_well, pause = time.monotonic(), self._ttl_seconds / BEATS
            if not stands:
                self._lost()
                return
