"""What a context says of a cluster: one struct a kind. None holds a secret, only where one is.

How a cluster of each kind is reached, started and ended is said in cluster/control/clusters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs import overlay
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import Spec, convert

if TYPE_CHECKING:
    from cluster.core.specs.infra import InfraSpec

STORE_FOLDER = "/mnt/trunkline"  # where pods have the volume that they share
HEAD_PORT = 6379
DASHBOARD_PORT = 8265
URLS = ("http://", "https://")

Port = Annotated[int, Meta(ge=1024, le=65535)]
Price = Annotated[float, Meta(ge=0)]


class Context(Spec, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What contexts of all kinds say."""

    token_file: str = ""
    """File with Ray's token; empty: Ray's own places, `~/.ray/auth_token` among them."""
    token_env: str = ""
    """Environment variable with Ray's token, instead of a file."""
    store: str = ""
    """Artifact store, where neither `--store` nor TRUNKLINE_STORE names one."""
    scaling: dict[str, Any] = {}
    """Fields of `scaling` that hold where neither `--config` nor `--set` says otherwise."""
    prices: dict[str, Price] = {}
    """What an hour of one CPU or GPU costs, such as `{CPU: 0.04, GPU: 2.5}`: `ctl plan` tells what training costs."""

    def check(self) -> None:
        if self.token_file and self.token_env:
            raise SpecError("token_file and token_env: two places for one token", "Leave one of them out.")
        if self.token_env and not re.fullmatch(r"[A-Za-z_]\w*", self.token_env):
            raise SpecError("token_env: not the name of a variable", "Name the variable; the token stays in it.")
        if "@" in urlsplit(self.store).netloc:
            raise SpecError("store: the URL holds a password", "Keep it in the environment (AWS_SECRET_ACCESS_KEY).")
        if unknown := set(self.prices) - {"CPU", "GPU"}:
            raise SpecError(f"prices.{min(unknown)}: there is no such resource", "Give prices of CPU and GPU.")
        convert(dict(self.scaling), ScalingSpec, "scaling")


class Local(Context, frozen=True, kw_only=True, tag="local"):
    """A Ray head on this machine, which `ctl up` starts; `ctl run` goes without."""

    kind: ClassVar[str] = "local"

    port: Port = HEAD_PORT
    """Port of the head."""
    dashboard_port: Port = DASHBOARD_PORT
    """Port of the dashboard."""
    dashboard_host: str = "127.0.0.1"
    """Address that the dashboard listens on. Others than loopback ask for the token, too, but nothing is encrypted."""
    num_cpus: Annotated[int, Meta(ge=0)] | None = None
    """Logical CPUs; None: all."""
    metrics: bool = False
    """Open Ray's Prometheus ports, to the network and without a token."""


class Ssh(Context, frozen=True, kw_only=True, tag="ssh"):
    """Machines that are reached by SSH: `ctl up` starts a head on the first and a node on each other one."""

    kind: ClassVar[str] = "ssh"

    hosts: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Where SSH goes, each as `[USER@]HOST[:PORT]`, or an alias of the SSH configuration. The first has the head."""
    user: str = ""
    """User on all hosts that name none; empty: as SSH's configuration has it."""
    ssh_port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """SSH's port on all hosts that name none; None: as SSH's configuration has it."""
    key: str = ""
    """File with the private key; empty: as SSH's configuration and agent have it. A passphrase is the agent's."""
    ssh_config: str = ""
    """File to read instead of `~/.ssh/config`."""
    checkout: str = ""
    """Trunkline's folder on the hosts; empty: it is installed (a wheel) where `python` is."""
    python: str = ""
    """Python on the hosts; empty: that of the checkout's `.venv`, without one `python3`."""
    port: Port = HEAD_PORT
    """Port of the head, which the other hosts must reach."""
    dashboard_port: Port = DASHBOARD_PORT
    """Port of the dashboard, on the first host's loopback: it is reached through SSH."""
    num_cpus: Annotated[int, Meta(ge=0)] | None = None
    """Logical CPUs of each host; None: all."""
    clock_seconds: Annotated[float, Meta(gt=0)] = 5.0
    """How far a host's clock may be off: what is in the store is dated by the hosts."""

    def check(self) -> None:
        super().check()
        for host in self.hosts:
            if not re.fullmatch(r"([\w.-]+@)?([A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", host):
                raise SpecError(f"hosts: {host!r} is no host", "Write [USER@]HOST[:PORT].")
        if twice := next((host for host in self.hosts if self.hosts.count(host) > 1), None):
            raise SpecError(f"hosts: {twice!r} is there twice", "Name each host once.")
        if self.port == self.dashboard_port:
            raise SpecError(f"port and dashboard_port are both {self.port}", "Choose two.")

    @property
    def interpreter(self) -> str:
        return self.python or (f"{self.checkout}/.venv/bin/python" if self.checkout else "python3")


class Address(Context, frozen=True, kw_only=True, tag="address"):
    """A Ray cluster that somebody else starts and ends."""

    kind: ClassVar[str] = "address"

    address: Annotated[str, Meta(min_length=1)]
    """The head, as HOST:PORT, or the dashboard, as `http://HOST:PORT`, where nothing else can be reached."""
    dashboard: str = ""
    """URL of the dashboard, where it is not the one that the head publishes: a port-forward, say."""

    def check(self) -> None:
        super().check()
        if "://" in self.address and not self.by_url:
            raise SpecError(f"address: {self.address!r} is neither a head nor a dashboard", "See the field's line.")
        if self.dashboard and not self.dashboard.startswith(URLS):
            raise SpecError(f"dashboard: {self.dashboard!r} is no URL", "Write http://HOST:PORT.")
        for url in (self.address, self.dashboard):
            if "@" in urlsplit(url).netloc:
                raise SpecError("address: the URL holds a password", "Name its place by token_file or token_env.")

    @property
    def by_url(self) -> bool:
        """Whether only the dashboard is known."""
        return self.address.startswith(URLS)


class Kubernetes(Context, frozen=True, kw_only=True, tag="kubernetes"):
    """A namespace of a Kubernetes with KubeRay: `ctl up` makes a RayCluster in it, reached through the API server."""

    kind: ClassVar[str] = "kubernetes"

    kubeconfig: str = ""
    """File; empty: $KUBECONFIG, else `~/.kube/config`."""
    context: str = ""
    """Context within that file; empty: its current one."""
    namespace: str = ""
    """Namespace; empty: the context's."""
    image: str = ""
    """Image of the pods; empty: as `infra.image` and `infra.gpu_image` say."""
    store: str = STORE_FOLDER
    """Artifact store, as a URL; else the volume that all pods share, which this machine does not see."""
    infra: dict[str, Any] = {}
    """Fields of `infra` (`ctl spec schema infra`): sizes of the pods, secrets of the store, node selectors, ..."""

    def check(self) -> None:
        super().check()
        if "://" not in self.store and self.store != STORE_FOLDER:
            raise SpecError("store: pods do not see a folder of this machine", "Give a URL, or leave it out.")
        for field in ("namespace", "store"):
            if field in self.infra:
                raise SpecError(f"infra.{field}: the context has a field of its own for it", f"Set {field}.")
        self.infra_spec("default")

    def infra_spec(self, namespace: str) -> InfraSpec:
        """What the manifests of its RayCluster are made from."""
        from cluster.core.specs.infra import InfraSpec  # of this kind alone: `ctl` starts sooner without

        given = {**self.infra, "namespace": namespace}
        if self.image:
            given |= {"image": self.image, "gpu_image": self.image}
        if self.store != STORE_FOLDER:
            given["store"] = self.store
        return convert(given, InfraSpec, "infra")


AnyContext = Local | Ssh | Address | Kubernetes
KINDS: dict[str, type[AnyContext]] = {cls.kind: cls for cls in (Local, Ssh, Address, Kubernetes)}


def make(kind: str, fields: dict[str, Any], where: str) -> AnyContext:
    """A context out of plain data. Raises SpecError that names `where.field`."""
    cls = KINDS[kind]
    overlay.check(cls, {"kind": kind, **fields}, where)
    try:
        found = msgspec.convert(fields, cls)
        found.check()
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise SpecError(f"{where}{path.rstrip('`')}: {message}", f"See `ctl context kinds {kind}`.") from None
    except SpecError as error:
        raise SpecError(f"{where}.{error.message}", error.remedy) from None
    return found
