"""Executes work in namespaces of its own (Linux; root is not needed). trial.py, whose work it is, runs as a script.

Three processes: the one that enters, which waits; the first of a new PID namespace, whose end kills all others in it;
and the one that works, and what it starts. It sees a small file system (system libraries and Python, read-only, and an
empty /tmp in memory), no network and no process but its own, and has no privileges and limited resources.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

NEW_USER, NEW_MOUNT, NEW_NET = 0x10000000, 0x00020000, 0x40000000
NEW_PID, NEW_IPC, NEW_UTS = 0x20000000, 0x08000000, 0x04000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CAPABILITY_VERSION = 0x20080522
NOBODY = 65534
MAX_PROCESSES = 8
MAX_FILE_BYTES = 16 << 20
MAX_OPEN_FILES = 64
CANNOT_ISOLATE = 3  # exit status; the reason is on standard error
SYSTEM = ("/usr", "/lib", "/lib64", "/bin")

Work = Callable[[dict[str, Any]], None]

libc = ctypes.CDLL(None, use_errno=True)


def enter(order: dict[str, Any], work: Work) -> None:
    """Do `work(order)` confined. `order` says how far: isolation, cpu_seconds, memory_bytes."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if order["isolation"] == "process":
        _as_child(lambda: _limited(order, work))
        os.killpg(0, signal.SIGKILL)  # what the program has left, and this process
    try:
        _enter_namespaces()
    except OSError as error:
        sys.stderr.write(f"{error.strerror} ({error.filename or 'namespaces'})")
        sys.exit(CANNOT_ISOLATE)
    _as_child(lambda: _first(order, work))


def _as_child(work: Callable[[], None]) -> None:
    """Do work in a child that dies with this process; wait for it."""
    child = os.fork()
    if child == 0:
        try:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _first(order: dict[str, Any], work: Work) -> None:
    """The first process of the PID namespace: kernel and program treat it unlike others, so that it only waits."""
    _as_child(lambda: _confined(order, work))


def _confined(order: dict[str, Any], work: Work) -> None:
    """Become nobody, for good, then work."""
    if os.getuid() != NOBODY:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # setuid has cleared it
    _limited(order, work)


def _limited(order: dict[str, Any], work: Work) -> None:
    """Limit the resources of this process, which are those of its children too, give up its capabilities, and work."""
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    header, none = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    _check(libc.capset(header, none), "capset")
    for limit, value in (
        (resource.RLIMIT_CPU, order["cpu_seconds"]),
        (resource.RLIMIT_AS, order["memory_bytes"]),
        (resource.RLIMIT_DATA, order["memory_bytes"]),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, MAX_PROCESSES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    work(order)


def _enter_namespaces() -> None:
    """New namespaces for this process (the PID namespace for its children), and a root of its own."""
    ready, go = os.pipe(), os.pipe()
    outside, uid, gid = os.getpid(), os.getuid(), os.getgid()
    helper = 0
    if uid == 0:  # only from outside may a second user be mapped, and the limit of processes does not hold for root
        helper = os.fork()
        if helper == 0:
            _map_from_outside(outside, ready, go)
    _check(libc.unshare(NEW_USER | NEW_MOUNT | NEW_NET | NEW_PID | NEW_IPC | NEW_UTS), "unshare")
    if helper:
        os.write(ready[1], b"1")
        os.close(go[1])
        if os.read(go[0], 1) != b"1":
            raise OSError(1, "the users could not be mapped", "uid_map")
        os.waitpid(helper, 0)
    else:
        _write(f"/proc/{outside}/setgroups", "deny")
        _map(outside, f"{NOBODY} {uid} 1", f"{NOBODY} {gid} 1")
    for descriptor in (*ready, go[0]):
        os.close(descriptor)
    _change_root()


def _map_from_outside(pid: int, ready: tuple[int, int], go: tuple[int, int]) -> NoReturn:
    """Map root and nobody into the namespace of a process once it is ready; what goes wrong shows as silence."""
    try:
        os.close(ready[1])
        if os.read(ready[0], 1):
            _map(pid, f"0 0 1\n{NOBODY} {NOBODY} 1", f"0 0 1\n{NOBODY} {NOBODY} 1")
            os.write(go[1], b"1")
    finally:
        os._exit(0)


def _map(pid: int, users: str, groups: str) -> None:
    _write(f"/proc/{pid}/gid_map", groups)
    _write(f"/proc/{pid}/uid_map", users)


def _change_root() -> None:
    """A root in memory that holds nothing but bound, read-only system folders, /dev/null and an empty /tmp."""
    _mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    root = "/tmp"  # exists everywhere; hidden for this namespace by what is mounted on it
    kept = [*SYSTEM, sys.base_prefix]
    opened = {path: os.open(path, os.O_PATH) for path in (*kept, "/dev/null") if os.path.exists(path)}
    links = {path: os.readlink(path) for path in SYSTEM if os.path.islink(path)}
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=755")
    for path, descriptor in opened.items():
        if path in links:
            os.symlink(links[path], root + path)
        elif not os.path.exists(root + path):  # Python may lie below /usr
            os.makedirs(os.path.dirname(root + path), mode=0o755, exist_ok=True)
            if path == "/dev/null":
                os.close(os.open(root + path, os.O_CREAT))
            else:
                os.mkdir(root + path)
            _mount(f"/proc/self/fd/{descriptor}", root + path, None, MS_BIND | MS_REC, None)
        os.close(descriptor)
    os.mkdir(root + "/tmp")
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _check(libc.syscall(MOUNT_SETATTR, AT_FDCWD, root.encode(), AT_RECURSIVE, attributes, size), "mount_setattr")
    _mount("tmpfs", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,mode=1777")
    os.chroot(root)
    os.chdir("/tmp")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    text = [value.encode() if value is not None else None for value in (source, target, kind, data)]
    _check(libc.mount(text[0], text[1], text[2], ctypes.c_ulong(flags), text[3]), target)


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
