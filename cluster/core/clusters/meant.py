"""Which cluster is meant, looked up anew at each call: by --context, TRUNKLINE_CONTEXT, RAY_ADDRESS, the current
context, else this machine. All that depends on the cluster asks here, and nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from cluster.core.clusters import book
from cluster.core.clusters.kinds import STORE_FOLDER, Address, AnyContext, Kubernetes, Local
from cluster.core.errors import InputError
from cluster.core.specs.scaling import ScalingSpec

CONTEXT = "TRUNKLINE_CONTEXT"
ADDRESS = "RAY_ADDRESS"
HERE = ("", "local")
LOOPBACK = ("127.", "localhost", "[::1]")


@dataclass(frozen=True)
class Meant:
    """The cluster that is meant: what is known of it, and who said so."""

    context: AnyContext = field(default_factory=Local)
    name: str = ""
    """Name of the context; empty: it is none of the user's."""
    said_by: str = ""
    """For messages; empty: nobody said anything."""

    @property
    def here(self) -> bool:
        """Whether it is this machine's own, with which a run can do as it likes."""
        return isinstance(self.context, Local)

    @property
    def address(self) -> str:
        """HOST:PORT of the head or URL of the dashboard, where the cluster is meant by one; else empty."""
        return self.context.address if isinstance(self.context, Address) else ""

    @property
    def on_this_machine(self) -> bool:
        """Whether all of its nodes are known to be on this machine."""
        return self.here or self.address.startswith(LOOPBACK)

    def __str__(self) -> str:
        if self.name:
            return f"context {self.name!r}"
        return f"RAY_ADDRESS={self.address}" if self.address else "this machine"


_chosen: list[Meant] = []


def meant() -> Meant:
    """The cluster that is meant now. Raises InputError for a context that is not there."""
    if _chosen:
        return _chosen[-1]
    if name := os.environ.get(CONTEXT):
        return Meant(_named(name, f"--context or {CONTEXT}"), name, CONTEXT)
    if address := os.environ.get(ADDRESS):
        return Meant(Local() if address in HERE else Address(address=address.rstrip("/")), said_by=ADDRESS)
    found = book.read()
    if found.current:
        return Meant(_named(found.current, str(book.path())), found.current, "the current context")
    return Meant()


def _named(name: str, where: str) -> AnyContext:
    try:
        return book.read().get(name)
    except InputError as error:
        raise InputError(f"{where}: {error.message}", error.remedy) from None


def choose(found: Meant) -> None:
    """Have this process mean one cluster from now on: one that it has found or started."""
    _chosen[:] = [found]


def environment(address: str) -> dict[str, str]:
    """The environment of a child process that is to mean the cluster of the head at an address."""
    return {name: value for name, value in os.environ.items() if name != CONTEXT} | {ADDRESS: address}


def default_store() -> str:
    """The store that the context names, where one is meant; else empty."""
    return meant().context.store


def is_hidden(store: str) -> bool:
    """Whether a store is the volume of the cluster that is meant, which this machine does not see."""
    return store == STORE_FOLDER and isinstance(meant().context, Kubernetes)


def require_shared(store: str) -> None:
    """Raise InputError for a folder of this machine where the cluster that is meant runs in pods, which see none."""
    found = meant()
    if isinstance(found.context, Kubernetes) and "://" not in store and not is_hidden(store):
        raise InputError(
            f"{store}: the pods of {found} do not see a folder of this machine",
            "Leave out --store and TRUNKLINE_STORE, or give the URL of an object store.",
        )


def price_per_hour(scaling: ScalingSpec) -> float:
    """What all training workers together cost in an hour, by the prices of the context; 0 where it has none."""
    prices = meant().context.prices
    each = scaling.cpus_per_worker * prices.get("CPU", 0) + scaling.gpus_per_worker * prices.get("GPU", 0)
    return scaling.num_workers * each


def default_scaling() -> dict[str, Any]:
    """Fields of `scaling` that the context says."""
    return dict(meant().context.scaling)
