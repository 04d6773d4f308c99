"""This machine: the head that `ctl up` starts here, or the one that this machine has joined. A run goes without."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from cluster.control import local, nodes, ports, runtime
from cluster.control.clusters import Cluster
from cluster.control.clusters.address import AtAddress
from cluster.core.clusters.kinds import Address, Local
from cluster.core.clusters.meant import Meant
from cluster.core.errors import NotReadyError


class Here(Cluster):
    """Local processes."""

    joinable: ClassVar[bool] = True

    @property
    def context(self) -> Local:
        assert isinstance(self.meant.context, Local)
        return self.meant.context

    def dashboard_url(self) -> str:
        node = nodes.cluster_head()
        if node is None:
            raise NotReadyError(
                "no Ray cluster is running here", "Start one with `ctl up`, or name one (`--context`, RAY_ADDRESS)."
            )
        if node.role == "worker":
            return AtAddress(Meant(Address(address=node.address), said_by="`ctl up --join`")).dashboard_url()
        if not ports.listens(node.address):  # the dashboard of a dead head answers nobody, after a long wait
            raise nodes.dead(node)
        nodes.require_raylet(node)
        return node.dashboard

    def head_address(self) -> str:
        return ""

    def up(self, tell: Callable[[str], None]) -> None:
        if head := nodes.running_head():
            if not runtime.answers(head.address):
                raise nodes.dead(head)
            nodes.require_raylet(head)
            tell(f"Already running: head {head.address}, dashboard {head.dashboard}.")
            return
        wanted = self.context
        head = local.start_head(
            num_cpus=wanted.num_cpus,
            port=wanted.port,
            dashboard_port=wanted.dashboard_port,
            dashboard_host=wanted.dashboard_host,
            metrics=wanted.metrics,
        )
        tell(f"Ray is up: head {head.address}, dashboard {head.dashboard}.")
        tell(
            "Submit with `ctl submit SCRIPT`; add a machine with its token and "
            f"`ctl up --join {head.address}`; end it with `ctl down`."
        )

    def down(self, tell: Callable[[str], None]) -> None:
        found = nodes.nodes()
        count = sum(nodes.stop(node) for node in reversed(found))  # the head, which came first, goes last
        tell(f"Ended {count} processes." if found else "Nothing is running here.")
