"""The process that rewards run in, started as a script by pool.py: `python -u -s -P confined.py REPLIES`.

Two processes: a keeper, which waits, and kills whatever the other has left behind when that ends; and one that answers
orders. Nothing that a reward does to its process (its random state, its output, its time limit, its end) is seen
outside. Rewards are their user's own code, so that this contains mistakes, and no attacker: code of a model's belongs
into the sandbox.

Orders are messages on standard input, and answers on the descriptor REPLIES: four bytes of length, then JSON. The first
order has `path`, `kind` and `called` (the rewards or environments), `files` that they read, `seed` and `memory_bytes`;
each one after it `name` and `sample`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random  # noqa: F401 - seeded
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
HEAD = struct.Struct("!I")
GENERATORS: dict[str, Callable[[Any, int], Any]] = {  # modules with a random state that is global, and how to set it
    "random": lambda module, number: module.seed(number),
    "numpy.random": lambda module, number: module.seed(number),
    "torch": lambda module, number: module.manual_seed(number),
}


def main(replies: int) -> None:
    """Become the keeper, and leave the orders to a child."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the child's become this process's
    signal.signal(signal.SIGTERM, lambda *_: _end(1))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            serve(replies)
        finally:
            os._exit(0)
    for descriptor in (0, 1, 2, replies):  # so that their end is seen when the child's have closed
        os.close(descriptor)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            _end(code if code >= 0 else 128 - code)


def _end(status: int) -> NoReturn:
    """End with all that is below this process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        try:
            os.wait()
        except ChildProcessError:
            os._exit(status)


def _children() -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # no process, or one that has ended
            continue
        if parent == os.getpid():
            found.append(int(entry))
    return found


def serve(replies: int) -> None:
    """Answer orders until there are no more."""
    orders = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    owner = os.getpid()
    first = receive(orders)
    sys.path[:] = first["path"]
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (first["memory_bytes"], hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    from pipelines.stages.alignment.rewards.calls import call, load

    called = load(first["called"], first["kind"], first["files"])
    send(replies, {"ready": True})
    while (order := receive(orders)) is not None:
        seeded: list[str] = []
        while (there := [name for name in GENERATORS if name in sys.modules]) != seeded or not seeded:
            seeded = _seed(there, first["seed"], order)
            found = call(called[order["name"]], order["sample"])  # again, where it has only now imported one of them
            if os.getpid() != owner:  # a copy that the reward has made: it must not answer, too
                os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(replies, found)


def _seed(modules: list[str], seed: int, order: dict[str, Any]) -> list[str]:
    """Begin every sample in the same random state, whatever this process has done before."""
    told = json.dumps([seed, order["name"], order["sample"]], sort_keys=True).encode()
    number = int.from_bytes(hashlib.sha256(told).digest()[:4], "big")
    for name in modules:
        GENERATORS[name](sys.modules[name], number)
    return modules


def send(descriptor: int, message: dict[str, Any]) -> None:
    data = memoryview(pack(message))
    while data:
        data = data[os.write(descriptor, data) :]


def pack(message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    return HEAD.pack(len(data)) + data


def receive(descriptor: int) -> Any:
    """The next message; None at the end."""
    head = _exactly(descriptor, HEAD.size)
    return json.loads(_exactly(descriptor, HEAD.unpack(head)[0])) if head else None


def _exactly(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), 1 << 16))
        if not part:
            return b""
        data += part
    return bytes(data)


if __name__ == "__main__":
    main(int(sys.argv[1]))
