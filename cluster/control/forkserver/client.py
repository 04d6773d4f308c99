"""Runs a Python script in a process forked from a fork server: `python -I -S client.py SCRIPT ARGUMENTS...`.

Ray starts workers by it (`py_executable` of a runtime environment). The server has imported what the worker would have
imported, in the same environment, so that the worker is there within a second instead of ten. The first that comes
starts the server and waits for it. This process lives as long as the worker, passes signals on to it, and ends as it
ends; where it is killed, the worker is. Whatever prevents all this, it becomes the script itself.

Standard library only, and little of it: this runs before each worker.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import sys
import zlib
from typing import NoReturn

SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "server.py")
PRELOAD = "TRUNKLINE_PRELOAD"  # modules that a server imports, with commas
CHILDREN = "TRUNKLINE_FORK_CHILDREN"  # where it is set, a worker's own children can be forked as it was (children.py)
# What differs between workers of one server, and is read when they run, not when modules are imported.
PER_WORKER = {
    *("TRUNKLINE_MODEL", "TRUNKLINE_ENDPOINT", "CUDA_VISIBLE_DEVICES", "SPT_NOENV", "RAY_CLIENT_MODE"),
    *("PWD", "OLDPWD", "SHLVL", "_", "LINES", "COLUMNS", "PYTEST_CURRENT_TEST"),
}
LONGEST_PATH = 107  # of a Unix socket, in bytes
SIZE, STATUS = struct.Struct("!I"), struct.Struct("!i")
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(command: list[str]) -> NoReturn:
    started: list[int] = []
    try:
        server = _connect(_place(command), started)
        _send(server, command)
        status = _follow(server)
    except OSError as error:
        print(f"no fork server ({error}): the worker starts by itself", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, *command])
    for pid in started:  # the server stays below this process, where those look who end what Ray has started
        os.waitpid(pid, 0)
    os._exit(status)


def _place(command: list[str]) -> str:
    """The server's socket: beside the raylet's, one for every environment that is another one."""
    told = json.dumps([sys.executable, sorted(_shared().items())]).encode()
    beside = next(word.partition("=")[2] for word in command if word.startswith("--raylet-name="))
    path = os.path.join(os.path.dirname(beside), f"fork_{zlib.crc32(told):08x}")
    if len(path.encode()) > LONGEST_PATH:
        raise OSError(f"{path} is too long for a socket")
    return path


def _shared() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in PER_WORKER}


def _connect(path: str, started: list[int]) -> socket.socket:
    """A connection to the server; where none answers, one is `started`. Raises OSError for another user's."""
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two that find none, one starts it
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            started.append(_start(path))
            server.connect(path)
    _, user, _ = struct.unpack("3i", server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if user != os.getuid():
        raise OSError(f"{path} belongs to another user")
    return server


def _start(path: str) -> int:
    """Start a server, whose number is returned. It listens already: who connects meanwhile waits for it."""
    partial = f"{path}.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(partial)
    os.chmod(partial, 0o600)
    listener.listen(256)
    os.rename(partial, path)
    listener.set_inheritable(True)
    arguments = [sys.executable, "-u", SERVER, str(listener.fileno()), path, os.environ["RAY_RAYLET_PID"]]
    if pid := os.fork():
        listener.close()
        return pid
    try:
        os.setsid()
        os.execve(sys.executable, arguments, _shared())
    finally:
        os._exit(1)


def _send(server: socket.socket, command: list[str]) -> None:
    """What is to run, where, in which environment, with this process's standard streams."""
    told = json.dumps({"command": command, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    socket.send_fds(server, [SIZE.pack(len(told))], [0, 1, 2])
    server.sendall(told)


def _follow(server: socket.socket) -> int:
    """Pass signals on to the worker until it ends. Its exit status; 128 and the signal where one has killed it."""
    pid = STATUS.unpack(_exactly(server, STATUS.size))[0]
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    try:
        return int(STATUS.unpack(_exactly(server, STATUS.size))[0])
    except OSError:  # the server is gone, and the worker with it
        return 1


def _exactly(server: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = server.recv(size - len(data))
        if not part:
            raise OSError("the server has ended")
        data += part
    return data


if __name__ == "__main__":
    main(sys.argv[1:])
