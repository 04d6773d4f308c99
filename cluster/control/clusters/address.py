"""A cluster by its address. The head publishes where its dashboard is; whether that leads, from here, to the same
cluster is asked before anything goes there: `127.0.0.1` is another machine to everybody else."""

from __future__ import annotations

from urllib.parse import urlsplit

from cluster.control import dashboard, nodes, ports, runtime
from cluster.control.clusters import Cluster
from cluster.core.clusters.kinds import Address
from cluster.core.errors import NotReadyError, TrunklineError

AUTO = "auto"  # Ray's word for whatever is found on this machine
READ_SECONDS = 10.0


class AtAddress(Cluster):
    """What RAY_ADDRESS names, or a context with an address."""

    @property
    def context(self) -> Address:
        assert isinstance(self.meant.context, Address)
        return self.meant.context

    @property
    def joinable(self) -> bool:  # type: ignore[override]  # it depends on what is known
        return not self.context.by_url

    def head_address(self) -> str:
        address = self.context.address
        if "://" in address:
            raise NotReadyError(
                f"{self.meant} is not a place that a pipeline can join",
                "Submit it there with `ctl submit`, or give HOST:PORT of the head (port 6379 by default).",
            )
        if address != AUTO:
            self._check_answers()
        return address

    def dashboard_url(self) -> str:
        address, given = self.context.address, self.context.dashboard.rstrip("/")
        if self.context.by_url:
            return address.rstrip("/")
        if address == AUTO:
            return self._found_here()
        runtime.use_token(create=False)
        self._check_answers()
        own, published = _read(address)
        url = given or (f"http://{published}" if published else "")
        if not url:
            raise NotReadyError(f"the cluster at {address} has no dashboard", "Give its URL as RAY_ADDRESS.")
        self._check_same(url, own)
        return url

    def _found_here(self) -> str:
        head = nodes.running_head()
        if head is None:
            raise NotReadyError("no Ray cluster is running here", "Start one with `ctl up`, or set RAY_ADDRESS.")
        return head.dashboard

    def _check_answers(self) -> None:
        address = self.context.address
        if "://" in address or not runtime.answers(address):
            raise NotReadyError(
                f"no Ray cluster answers at {address}",
                f"Start one with `ctl up`, or correct {self.meant.said_by or self.meant}.",
            )

    def _check_same(self, url: str, own: str) -> None:
        """Raise NotReadyError where a dashboard is not that of the head whose session is called `own`."""
        address = self.context.address
        remedy = (
            "Name the right one: a context with `dashboard`, or RAY_ADDRESS=http://HOST:PORT. "
            "A head shows its dashboard to other machines after `ctl up --dashboard-host ADDRESS`; or use SSH."
        )
        place = urlsplit(url)
        if not ports.listens(f"{place.hostname}:{place.port or 80}"):
            raise NotReadyError(f"the dashboard of the head at {address} is not reached at {url} from here", remedy)
        try:
            found = dashboard.request("GET", url, "/api/version") or {}
        except TrunklineError:  # it refuses the token that the head took, or is no dashboard
            found = {}
        if found.get("session_name") != own:
            raise NotReadyError(f"what answers at {url} is not the dashboard of the head at {address}", remedy)


def _read(address: str) -> tuple[str, str]:
    """What a head says of its cluster: the name of its session, which no other has, and where its dashboard is."""
    from ray._private import ray_constants
    from ray._raylet import GcsClient

    client = GcsClient(address=address)
    key, space = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
    session = client.internal_kv_get(
        b"session_name", namespace=ray_constants.KV_NAMESPACE_SESSION, timeout=READ_SECONDS
    )
    published = client.internal_kv_get(key, namespace=space, timeout=READ_SECONDS)
    return (session or b"").decode(), (published or b"").decode()
