"""Whether hosts can be one cluster: what each has of Python, Ray and Trunkline, its clock, its reach of the store."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import platform
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from cluster import __version__
from cluster.control.clusters import probe
from cluster.control.clusters.connection import Connection
from cluster.core.clusters.kinds import Ssh
from cluster.core.errors import NotReadyError
from cluster.core.storage.location import Location

PROBE_SECONDS = 60.0
AT_ONCE = 16
MARKER = ".reach-"  # in the store, for as long as it takes


def check(context: Ssh, connections: list[Connection], python: Callable[[], list[str]]) -> None:
    """Raise NotReadyError, a clause for each host that cannot take part. Nothing is started."""
    marker = f"{MARKER}{secrets.token_hex(8)}"
    owns = [f"{marker}-{number}" for number in range(len(connections))]
    store = Location(context.store) if context.store else None

    def one(connection: Connection, own: str) -> NotReadyError | None:
        asked = {"store": context.store, "marker": marker, "own": own, "trunkline": __version__}
        try:
            _judge(context, *_ask(connection, python(), asked), connection.host)
        except NotReadyError as error:
            return error
        return None

    if store:
        store.write_bytes(marker, b"")
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            errors = [error for error in pool.map(one, connections, owns) if error]
        if store and not errors:
            for connection, own in zip(connections, owns, strict=True):
                if not store.exists(own):
                    raise NotReadyError(
                        f"{connection.host} writes to another place than {context.store} is here",
                        "The store of several machines is a URL, or a folder that all of them have mounted.",
                    )
    finally:
        for name in (marker, *owns) if store else ():
            with suppress(FileNotFoundError):
                store.remove(name)  # type: ignore[union-attr]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise NotReadyError("; ".join(error.message for error in errors), "Mend them, or take them out of `hosts`.")


def _ask(connection: Connection, python: list[str], asked: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """What a host says of itself, and by how many seconds at least its clock is off."""
    before = time.time()
    said = connection.run([*python, "-c", inspect.getsource(probe)], json.dumps(asked).encode(), PROBE_SECONDS)
    after = time.time()
    try:
        told = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        raise NotReadyError(
            f"{connection.host}: what its Python says is not understood", "Its shell must write nothing of its own."
        ) from None
    return told, max(before - told["time"], told["time"] - after, 0.0)


def _judge(context: Ssh, told: dict[str, Any], off_seconds: float, name: str) -> None:
    where = f"Give `python` (now {context.interpreter}) and `checkout` in the context."
    minor = told["python"].split(".")[:2]
    if minor != platform.python_version().split(".")[:2]:
        raise NotReadyError(f"{name} has Python {told['python']}, this machine {platform.python_version()}", where)
    ray = importlib.metadata.version("ray")
    if told["ray"] != ray:
        has = f"Ray {told['ray']}" if told["ray"] else "no Ray"
        raise NotReadyError(f"{name} has {has}, this machine {ray}", f"Install ray=={ray} there, or correct `python`.")
    if told["trunkline"] != __version__:
        has = f"Trunkline {told['trunkline']}" if told["trunkline"] else "no Trunkline"
        raise NotReadyError(f"{name} has {has}, this machine {__version__}", where)
    if off_seconds > context.clock_seconds:
        raise NotReadyError(
            f"{name}'s clock is off by {off_seconds:,.0f} s", "Have it set by NTP (`timedatectl set-ntp true`)."
        )
    if told["store"]:
        raise NotReadyError(
            f"{name} does not reach the store {context.store}: {told['store']}",
            "It needs the same folder mounted, or the store's credentials (~/.aws) of its own.",
        )
