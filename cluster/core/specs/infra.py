"""Spec of the Kubernetes side: what the manifests need to know that is neither what to build nor how to scale it."""

from __future__ import annotations

from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.spec import Spec

# A DNS-1035 label. KubeRay appends to the names of its objects, and we append to this one: hence the short bound.
Prefix = Annotated[str, Meta(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=30)]


class InfraSpec(Spec, frozen=True):
    """RayCluster, RayJob and RayService in a namespace of KubeRay, with their storage, network rules and budgets."""

    kind: ClassVar[str] = "infra"

    name: Prefix = "trunkline"
    """Beginning of the names of all objects."""
    namespace: Prefix = "trunkline"
    """Namespace of all objects."""
    pipeline: str = "pipelines/pretrain.py"
    """Script of the RayJob, relative to the project."""
    image: str = "trunkline:cpu"
    """Image without CUDA, made by infra/docker/Dockerfile.cpu."""
    gpu_image: str = "trunkline:cuda"
    """Image with CUDA, made by infra/docker/Dockerfile.cuda; used as soon as anything asks for GPUs."""
    pull_secret: str = ""
    """Secret with the credentials of the image registry; empty: none needed."""
    service_account: str = ""
    """Service account of the pods, for stores that trust one instead of keys; empty takes the namespace's default."""
    store: str = ""
    """URL of the artifact store (`s3://bucket/prefix`, `gs://...`); empty: a volume that all pods share."""
    store_secret: str = ""
    """Secret whose keys become environment variables (`AWS_ACCESS_KEY_ID`, ...); empty: none needed."""
    store_endpoint: str = ""
    """URL of an S3 service that is not Amazon's; empty: Amazon's."""
    storage_gib: Annotated[int, Meta(ge=1)] = 200
    """Size of the shared volume."""
    storage_class: str = ""
    """Storage class of the shared volume, one that offers ReadWriteMany; empty takes the cluster's default."""
    head_cpus: Annotated[int, Meta(ge=1)] = 2
    """CPU cores of a head pod. Jobs' drivers run there; Ray's tasks do not."""
    head_memory_gib: Annotated[int, Meta(ge=2)] = 8
    """Memory of a head pod."""
    worker_memory_gib: Annotated[int, Meta(ge=1)] = 8
    """Memory of each training worker, and of each rollout engine."""
    replica_memory_gib: Annotated[int, Meta(ge=2)] = 8
    """Memory of each replica of the endpoint."""
    workers_per_pod: Annotated[int, Meta(ge=1)] = 1
    """Training workers in one pod: the GPUs of a node, so that they talk over NVLink."""
    gpu_node_selector: dict[str, str] = {}
    """Labels of the nodes that pods with GPUs go to, such as `nvidia.com/gpu.product`; empty: any."""
    queue: str = ""
    """Kueue's local queue for the RayJob; empty: no Kueue."""
    retries: Annotated[int, Meta(ge=0)] = 2
    """How often a failed RayJob begins anew on a new cluster; finished steps and checkpoints are in the store."""
    deadline_seconds: Annotated[int, Meta(ge=60)] = 7 * 86_400
    """How long a RayJob may take, all its retries together."""
    start_deadline_seconds: Annotated[int, Meta(ge=60)] = 3600
    """How long a RayJob's cluster may take to come up: images to pull, nodes to wait for."""
    keep_seconds: Annotated[int, Meta(ge=0)] = 3600
    """How long the cluster of a finished RayJob stays to be looked at."""
    redis_address: str = ""
    """`host:port` of a Redis that lets the endpoint outlive its head; empty: a lost head restarts the endpoint."""
    redis_secret: str = ""
    """Secret that holds Redis's password under the key `password`."""

    def check(self) -> None:
        if self.store and "://" not in self.store:
            raise SpecError(
                f"infra.store: {self.store!r} is not a URL",
                "Give s3://... or gs://..., or leave it empty for a volume that all pods share.",
            )
        for field in ("store_secret", "store_endpoint"):
            if getattr(self, field) and not self.store:
                raise SpecError(f"infra.{field}: the store is a volume and needs none", "Set infra.store as well.")
        if self.store_endpoint and not urlsplit(self.store_endpoint).hostname:
            raise SpecError(f"infra.store_endpoint: {self.store_endpoint!r} is not a URL", "Give https://host:port.")
        if bool(self.redis_address) != bool(self.redis_secret):
            raise SpecError("infra.redis_address: goes with redis_secret and with it only", "Set both, or neither.")
        if self.redis_address and not self.redis_address.rpartition(":")[2].isdecimal():
            raise SpecError(f"infra.redis_address: {self.redis_address!r} has no port", "Give host:port.")
