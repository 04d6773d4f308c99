"""What can be done with a cluster, by the kind of its context; one line here adds a kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from cluster.core.clusters.meant import Meant, meant
from cluster.core.errors import UsageError
from cluster.core.import_strings import import_string

# Import strings, since what a kind needs (SSH, a client of Kubernetes) is imported for that kind alone.
KINDS = {
    "local": "cluster.control.clusters.here:Here",
    "ssh": "cluster.control.clusters.ssh:OverSsh",
    "address": "cluster.control.clusters.address:AtAddress",
    "kubernetes": "cluster.kubernetes.context:InKubernetes",
}


class Cluster(ABC):
    """The cluster of one context: how it is reached, and how it is started and ended."""

    joinable: ClassVar[bool] = False
    """Whether this process is in the cluster's network: it can join, and the nodes' addresses are what they say."""
    runs_commands: ClassVar[bool] = False
    """Whether a command that would have to join runs on the head instead (cluster/control/on_head.py)."""

    def __init__(self, found: Meant) -> None:
        self.meant = found

    @abstractmethod
    def dashboard_url(self) -> str:
        """URL at which the dashboard answers this process. Raises NotReadyError where there is none."""

    @abstractmethod
    def head_address(self) -> str:
        """What `ray.init` joins: HOST:PORT of the head; empty: nothing, a private cluster is started.

        Raises NotReadyError where a process here cannot join.
        """

    def require_joinable(self) -> None:
        """Raise NotReadyError where a process here cannot join, before it has worked in vain. Nothing is asked."""
        if not self.joinable:
            self.head_address()

    def up(self, tell: Callable[[str], None]) -> None:
        """Start what the context describes; where it runs already, nothing happens."""
        raise self._of_others()

    def down(self, tell: Callable[[str], None]) -> None:
        """End what `up` started, and nothing else."""
        raise self._of_others()

    def _of_others(self) -> UsageError:
        return UsageError(
            f"{self.meant} names a cluster that somebody else starts and ends",
            "For one on this machine say `ctl --context NAME`, or unset RAY_ADDRESS and `ctl context use` none.",
        )


def find(found: Meant | None = None) -> Cluster:
    """The cluster that is meant, or that of `found`. Nothing is asked yet."""
    found = found or meant()
    made: Cluster = import_string(KINDS[found.context.kind])(found)
    return made
