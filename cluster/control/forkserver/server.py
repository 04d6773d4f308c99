"""The fork server: imports what workers of one environment need, then forks one for each client that asks.

Started by client.py as `python -u server.py LISTENER PATH RAYLET`: a socket that listens, its path, and the process
that it ends with. It ends too where nobody has asked for a while and no worker is left. Workers die with it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any, NoReturn

sys.path[0] = str(Path(__file__).resolve().parent)
from client import CHILDREN, PRELOAD, SIZE, STATUS  # noqa: E402 - by its folder: the package is not on every worker's path

del sys.path[0]

IDLE_SECONDS = 60.0
PR_SET_PDEATHSIG = 1


@dataclass
class Worker:
    """A process that was forked for a client."""

    pid: int
    ended: int  # a descriptor that can be read once it has ended
    client: socket.socket


def main(listener: socket.socket, path: str, raylet: int) -> None:
    ends = os.pidfd_open(raylet)
    _preload()
    workers: dict[int, Worker] = {}  # by each of their descriptors
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(ends, selectors.EVENT_READ)
        while events := selector.select(None if workers else IDLE_SECONDS):
            for key, _ in events:
                if selector.get_map().get(key.fd) is not key:
                    continue  # of a worker that has gone since; its number may be another's by now
                if key.fd == ends:
                    return
                if key.fd == listener.fileno():
                    client = listener.accept()[0]
                    if worker := _serve(client, [listener.fileno(), ends, *workers], selector):
                        for descriptor in (worker.ended, client.fileno()):
                            workers[descriptor] = worker
                            selector.register(descriptor, selectors.EVENT_READ)
                elif worker := workers.get(key.fd):
                    if key.fd != worker.ended:
                        os.kill(worker.pid, signal.SIGKILL)  # not reaped yet: the number is still its own
                    _end(worker)
                    for descriptor in (worker.ended, worker.client.fileno()):
                        selector.unregister(descriptor)
                        del workers[descriptor]
                    os.close(worker.ended)
                    worker.client.close()
        os.unlink(path)


def _preload() -> None:
    """Import what was asked for. A module that cannot be imported is the worker's to complain of."""
    gc.disable()  # a quarter of the time of large imports
    for name in ("ray._private.workers.default_worker", *filter(None, os.environ.get(PRELOAD, "").split(","))):
        with suppress(ImportError):
            importlib.import_module(name)
    gc.enable()
    gc.freeze()  # what is here stays in memory that all share


def _serve(client: socket.socket, descriptors: list[int], selector: selectors.BaseSelector) -> Worker | None:
    """Fork a process that does what a client asks for."""
    try:
        head, streams, _, _ = socket.recv_fds(client, SIZE.size, 3)
        left = SIZE.unpack(head)[0]
        told = b""
        while left and (part := client.recv(left)):
            told, left = told + part, left - len(part)
        order = json.loads(told)
    except (OSError, ValueError, struct.error) as error:  # a client that was killed while it spoke
        print(f"fork server: a client that cannot be understood: {error}", file=sys.stderr)
        client.close()
        return None
    pid = os.fork()
    if pid == 0:
        selector.close()
        client.close()
        for descriptor in descriptors:
            os.close(descriptor)
        _become(order, streams)
    for stream in streams:
        os.close(stream)
    with suppress(OSError):  # a client that has been killed: its end is seen next, and the worker with it
        client.sendall(STATUS.pack(pid))
    return Worker(pid, os.pidfd_open(pid), client)


def _become(order: dict[str, Any], streams: list[int]) -> NoReturn:
    """Be what `python SCRIPT ARGUMENTS...` would be."""
    os.setpgid(0, 0)  # Ray ends a worker with its whole group
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    for name in [name for name in os.environ if name not in order["environment"]]:
        del os.environ[name]
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    if numbers := sys.modules.get("numpy.random"):  # the only generator that a fork copies
        numbers.seed()
    if CHILDREN in os.environ:
        _keep_copy()
    sys.argv = order["command"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _keep_copy() -> None:
    """Leave a copy of this process, which has no threads yet, to `multiprocessing`: what that starts by its method
    `forkserver` is forked from it. The copy ends with this process."""
    server: Any = forkserver._forkserver  # is left as its ensure_running() leaves it
    address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    os.chmod(address, 0o600)
    listener.listen()
    ends, alive = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(alive)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(SystemExit):
            forkserver.main(listener.detach(), ends, [])
        os._exit(0)
    os.close(ends)
    listener.close()
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, alive, pid


def _end(worker: Worker) -> None:
    """Take the exit status of a worker that has ended and tell its client."""
    code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
    with suppress(OSError):
        worker.client.sendall(STATUS.pack(code if code >= 0 else 128 - code))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3]))
    os._exit(0)
