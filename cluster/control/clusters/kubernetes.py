"""A namespace of Kubernetes: what the project does there so far is written manifests."""

from __future__ import annotations

from collections.abc import Callable

from cluster.control.clusters import Cluster
from cluster.core.errors import NotReadyError


class InKubernetes(Cluster):
    """A RayCluster of KubeRay."""

    def dashboard_url(self) -> str:
        raise self._by_hand("is not reached by itself yet")

    def head_address(self) -> str:
        raise self._by_hand("cannot be joined from here")

    def up(self, tell: Callable[[str], None]) -> None:
        raise self._by_hand("is not started by `ctl up` yet")

    def down(self, tell: Callable[[str], None]) -> None:
        raise self._by_hand("is not ended by `ctl down` yet")

    def _by_hand(self, what: str) -> NotReadyError:
        return NotReadyError(
            f"{self.meant} is of kind kubernetes, which {what}",
            "Apply what `ctl infra render` writes, forward the dashboard's port, and set RAY_ADDRESS to its URL.",
        )
