"""What runs in the jail, as two processes: a candidate, which has the untrusted code, and a judge, which has the tests.

Nothing that the candidate does can make it pass: it has neither the judge's memory nor its output, and has never had
the tests. The judge calls a function of it over a socket and sees plain values, which it decodes by itself, so that no
class of the candidate's (one that equals everything, say) takes part in a comparison. Run as
`python -P -s -S trial.py`; imports nothing of the project but what lies beside it, since there is nothing else in the
jail.

Standard input: two lines of JSON. The first, an order: solution, entry_point, isolation, cpu_seconds, memory_bytes; the
second, which only the judge reads: setup and test. Standard output: {"passed": true}, or {"error": why}.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
MAX_MESSAGE_BYTES = 64 << 20
LONG_BITS = 8192  # Python reads and writes no decimal number of many more
GONE = "ended before its end was reached, or by a limit"
COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}

libc = ctypes.CDLL(None, use_errno=True)


class Gone(BaseException):
    """The candidate's process has ended."""


def encode(value: Any) -> Any:
    """A plain value as JSON. Raises TypeError for one that is not plain; a subclass counts as what it extends."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__index__(value)
        return number if number.bit_length() < LONG_BITS else {"int": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, list):
        return [encode(item) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in dict.items(value)]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"bytes": bytes.hex(value)}
    for name, made in COLLECTIONS.items():
        if isinstance(value, made):  # type: ignore[arg-type]
            return {name: [encode(item) for item in value]}
    raise TypeError(f"a value of type {type(value).__name__} cannot be judged: only plain data can")


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((name, inner),) = value.items()
    if name == "int":
        return int(inner, 16)
    if name == "complex":
        return complex(*inner)
    if name == "bytes":
        return bytes.fromhex(inner)
    if name == "dict":
        return {decode(key): decode(item) for key, item in inner}
    return COLLECTIONS[name]([decode(item) for item in inner])


def send(link: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    link.sendall(struct.pack("!I", len(data)) + data)


def receive(link: socket.socket) -> dict[str, Any]:
    """The next message. Raises Gone at the end of the link, or for what is no message."""
    try:
        (size,) = struct.unpack("!I", _exactly(link, 4))
        if size > MAX_MESSAGE_BYTES:
            raise Gone
        found = json.loads(_exactly(link, size))
    except (OSError, ValueError, RecursionError):
        raise Gone from None
    if not isinstance(found, dict):
        raise Gone
    return found


def _exactly(link: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = link.recv(min(size - len(data), 1 << 16))
        if not part:
            raise Gone
        data += part
    return bytes(data)


def run(order: dict[str, Any]) -> None:
    """Both processes. This one, which has given up its privileges and has its limits, becomes the judge."""
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # the candidate's user is this one's: it must not look into this process
    report, nowhere = os.dup(1), os.open("/dev/null", os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(nowhere, 0)
        os.close(report)
        ours.close()
        try:
            _candidate(theirs, order["solution"], order["entry_point"])
        finally:
            os._exit(0)
    theirs.close()
    with os.fdopen(os.dup(0), "rb") as rest:
        tests = json.loads(rest.read())
    os.dup2(nowhere, 0)
    os.write(report, json.dumps(_judge(ours, order["entry_point"], tests["setup"], tests["test"])).encode())


def _candidate(link: socket.socket, solution: str, entry_point: str) -> None:
    """Load the solution, and answer calls of its function until nobody calls."""
    names: dict[str, Any] = {"__name__": "__main__"}
    owner = os.getpid()
    try:
        exec(compile(solution, "solution", "exec"), names)
        found: dict[str, Any] = {"value": None}
    except BaseException as error:
        found = _raised(error)
    while os.getpid() == owner:  # and not a process that the solution has forked
        send(link, found)
        call = receive(link)
        try:
            arguments, named = decode(call["args"]), decode(call["kwargs"])
            found = {"value": encode(names[entry_point](*arguments, **named))}
        except BaseException as error:
            found = _raised(error)


def _raised(error: BaseException) -> dict[str, Any]:
    try:
        message = str(error)[:200]
    except BaseException:  # an exception's text is code of the candidate's, too
        message = ""
    return {"raised": [type(error).__name__, message]}


def _judge(link: socket.socket, entry_point: str, setup: str, test: str) -> dict[str, Any]:
    """What to report: passed only where the tests have come to their end here, and the candidate lived to see it."""
    gone = False

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            send(link, {"args": encode(args), "kwargs": encode(kwargs)})
        except OSError:  # nobody is there: no error for a test to expect
            raise left() from None
        return answer()

    def left() -> Gone:
        nonlocal gone
        gone = True
        return Gone()

    def answer() -> Any:
        try:
            found = receive(link)
        except Gone:
            raise left() from None
        if "raised" not in found:
            return decode(found.get("value"))
        name, message = map(str, found["raised"])
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
            raise kind(message)
        raise RuntimeError(f"{name}: {message}")

    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        answer()  # the solution was loaded
        exec(compile(setup, "setup", "exec"), names)
        names[entry_point] = call
        exec(compile(test, "test", "exec"), names)
    except BaseException as error:
        if not gone:
            told = _raised(error)["raised"]
            return {"error": told[1] if told[0] == "RuntimeError" else f"{told[0]}: {told[1]}"}
    return {"error": GONE} if gone else {"passed": True}


def _first_line(descriptor: int) -> bytes:
    """A line of standard input and nothing of what follows, which is not this process's to know."""
    data = bytearray()
    while (part := os.read(descriptor, 1)) not in (b"", b"\n"):
        data += part
    return bytes(data)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # where `-P` does not look
    jail = importlib.import_module("jail")
    sys.path.pop(0)
    jail.enter(json.loads(_first_line(0)), run)
