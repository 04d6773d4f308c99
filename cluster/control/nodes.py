"""The Ray nodes that were started on this machine: what is written down of them, their processes, their end.

Ray's own `ray stop` ends every Ray on the machine. We end what we started and nothing else: all processes of a node
inherit a mark in their environment, which neither a reused process id nor a re-parented child can confuse.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from cluster.core.errors import InputError, NotReadyError
from cluster.core.home import home

if TYPE_CHECKING:
    import psutil

MARK = "TRUNKLINE_NODE"
STOP_SECONDS = 20.0  # a job's driver may save its work before it goes
POLL_SECONDS = 0.5
AFRESH = "Run `ctl down`, then `ctl up`."


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A Ray node that was started here."""

    id: str
    role: Literal["head", "worker"]
    address: str
    """Of the head, HOST:PORT."""
    dashboard: str = ""
    """URL; empty on a node that has joined."""
    folder: str = ""
    """Around Ray's folder on this machine; nobody else can enter it."""
    num_cpus: int | None = None
    """Logical CPUs; None: all."""
    metrics: bool = False
    """Whether Ray's Prometheus ports are open."""


def _state_file() -> Path:
    return home() / "nodes.json"


def nodes() -> list[Node]:
    """The nodes that were started here and not stopped, whether or not they still live."""
    try:
        return msgspec.json.decode(_state_file().read_bytes(), type=list[Node])
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as error:
        raise InputError(f"{_state_file()}: {error}", "Run `ray stop`, and remove the file.") from None


def save(found: list[Node]) -> None:
    path = _state_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(msgspec.json.encode(found))
    partial.replace(path)


def write_down(node: Node) -> None:
    """Have a node among those that were started here, in the place of what was written of it before."""
    save([*(other for other in nodes() if other.id != node.id), node])


def running_head() -> Node | None:
    """The head that `ctl up` started here, if it lives."""
    return next((node for node in nodes() if node.role == "head" and processes(node)), None)


def cluster_head() -> Node | None:
    """The head that `ctl up` started here, else the node that has joined one; if it lives."""
    return running_head() or next((node for node in nodes() if processes(node)), None)


def processes(node: Node) -> list[psutil.Process]:
    """The living processes of a node: those that carry its mark, and their descendants."""
    import psutil

    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid not in found and process.environ().get(MARK) == node.id:
                found |= {member.pid: member for member in (process, *process.children(recursive=True))}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found.values() if _lives(process)]


def raylets(node: Node) -> list[psutil.Process]:
    """A node's raylet, without which nothing runs on it, if it lives."""
    import psutil

    found = []
    for process in psutil.process_iter():  # most are told apart by their names, which cost less than their environment
        try:
            if process.name() == "raylet" and process.environ().get(MARK) == node.id and _lives(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def stop(node: Node, *, keep_logs: bool = False) -> int:
    """End a node and forget it; how many processes there were."""
    count = end(node, keep_logs=keep_logs)
    save([other for other in nodes() if other.id != node.id])
    return count


def end(node: Node, *, keep_logs: bool = False) -> int:
    """End a node's processes but this one, politely first, and remove its folder; how many processes there were.

    Jobs go first, and may save their work; then the raylet, which takes leave of the head; then whatever is left.
    """
    found = _others(node)
    servers = [process for process in found if _name(process) in ("raylet", "gcs_server")]
    _end([process for process in found if process not in servers])
    _end([process for process in servers if _name(process) == "raylet"])
    if left := _end(_others(node), insist=True):
        raise NotReadyError(f"processes {[p.pid for p in left]} do not end", "Look at them with `ps`, and try again.")
    if not keep_logs:
        _remove(node.folder)  # the code of jobs is in it
    return len(found)


def _remove(folder: str) -> None:
    if not folder or not os.path.lexists(folder):
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise NotReadyError(f"{folder} cannot be removed: {error.strerror}", "Remove it by hand.") from error


def _others(node: Node) -> list[psutil.Process]:
    """A node's processes but this one, which may be the one that watches it."""
    return [process for process in processes(node) if process.pid != os.getpid()]


def _end(found: list[psutil.Process], *, insist: bool = False) -> list[psutil.Process]:
    """Ask processes to end (`insist`: kill them) and wait until they have; those that have not in time."""
    import psutil

    left = [process for process in found if _lives(process)]
    for process in left:
        try:
            process.kill() if insist else process.terminate()
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + STOP_SECONDS
    while left and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=POLL_SECONDS)
        left = [process for process in left if _lives(process)]
    return left


def _name(process: psutil.Process) -> str:
    import psutil

    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended may stay a zombie until its parent looks."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def dead(head: Node) -> NotReadyError:
    """The error for a head that was started here and does not answer."""
    return NotReadyError(f"the head at {head.address} does not answer", AFRESH)


def require_raylet(head: Node) -> None:
    """Raise NotReadyError for a head that answers and runs nothing any more: what is submitted would wait for ever."""
    if not raylets(head):
        raise NotReadyError(f"the head at {head.address} has lost its raylet, and runs nothing", AFRESH)
