"""TCP ports of this machine: which are taken, which are free, and what listens."""

from __future__ import annotations

import socket

from cluster.core.errors import NotReadyError

WORKERS = range(10002, 20000)  # Ray's own choice for its workers, which it wants for itself
CONNECT_SECONDS = 2.0


def check(port: int, option: str) -> None:
    """Raise NotReadyError for a port that a head or its dashboard cannot have, naming a free one."""
    if port in WORKERS:
        raise NotReadyError(
            f"{option} {port}: Ray's workers use the ports {WORKERS[0]} to {WORKERS[-1]}",
            f"Choose another, such as {free()}.",
        )
    if taken(port):
        raise NotReadyError(
            f"port {port} is in use", f"Choose another with `{option}`, such as {free()}, or stop what holds it."
        )


def taken(port: int) -> bool:
    """Whether something on this machine listens on a TCP port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def listens(address: str) -> bool:
    """Whether anything takes connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def free() -> int:
    """A port that nothing listens on, and that Ray's workers do not want."""
    while True:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        if port not in WORKERS:
            return port
