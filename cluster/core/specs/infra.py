"""Spec of the Kubernetes side: what the manifests need to know that is neither what to build nor how to scale it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from zoneinfo import available_timezones

from msgspec import Meta

from cluster.core.errors import SpecError, nearest
from cluster.core.specs import kubernetes_names as names
from cluster.core.specs.spec import Spec

# A DNS-1035 label. KubeRay appends to the names of its objects, and we append to this one: hence the short bound.
Prefix = Annotated[str, Meta(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?\Z", max_length=30)]
INT32 = 2**31 - 1  # the most that KubeRay's fields of seconds and numbers hold
GIB = 2**20  # a pebibyte: more is a slip


class InfraSpec(Spec, frozen=True):
    """RayCluster, RayJob and RayService in a namespace of KubeRay, with their storage, network rules and budgets."""

    kind: ClassVar[str] = "infra"

    name: Prefix = "trunkline"
    """Beginning of the names of all objects, and the name of the endpoint's application in Ray Serve."""
    namespace: Prefix = "trunkline"
    """Namespace of all objects."""
    pipeline: str = "pipelines/pretrain.py"
    """Script of the RayJob, relative to the project."""
    image: str = "trunkline:cpu"
    """Image without CUDA, made by infra/docker/Dockerfile.cpu."""
    gpu_image: str = "trunkline:cuda"
    """Image with CUDA, made by infra/docker/Dockerfile.cuda; used as soon as anything asks for GPUs."""
    registry: str = ""
    """Registry that both images are taken from (`registry.lab:5000/mirror`), instead of the one that they name."""
    offline: bool = False
    """Nothing reaches the internet: only addresses of private networks, and no hub of models or data is asked."""
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
    storage_gib: Annotated[int, Meta(ge=1, le=GIB)] = 200
    """Size of the shared volume."""
    storage_class: str = ""
    """Storage class of the shared volume, one that offers ReadWriteMany; empty takes the cluster's default."""
    storage_access: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """Who mounts the shared volume: pods of all nodes, or (`ReadWriteOnce`, for a cluster of one node) of one."""
    head_cpus: Annotated[int, Meta(ge=1, le=1024)] = 2
    """CPU cores of a head pod. Jobs' drivers run there; Ray's tasks do not."""
    head_memory_gib: Annotated[int, Meta(ge=2, le=GIB)] = 8
    """Memory of a head pod."""
    worker_memory_gib: Annotated[int, Meta(ge=1, le=GIB)] = 8
    """Memory of each training worker, and of each rollout engine."""
    replica_memory_gib: Annotated[int, Meta(ge=2, le=GIB)] = 8
    """Memory of each replica of the endpoint."""
    workers_per_pod: Annotated[int, Meta(ge=1)] = 1
    """Training workers in one pod, never more: the GPUs of a node, so that they talk over NVLink."""
    gpu_node_selector: dict[str, str] = {}
    """Labels of the nodes that pods with GPUs go to, such as `nvidia.com/gpu.product`; empty: any."""
    spot_node_selector: dict[str, str] = {}
    """Labels of nodes that may be taken away at any time (`karpenter.sh/capacity-type: spot`). Training workers and
    rollout engines go there, and tolerate taints of these keys; heads and the endpoint stay away. Empty: no such."""
    node_loss_seconds: Annotated[int, Meta(ge=0, le=3600)] = 5
    """How long pods stay with a node that Kubernetes has found lost; then they are made anew on another."""
    idle_seconds: Annotated[int, Meta(ge=1, le=INT32)] = 600
    """How long a pod with nothing to do stays with a cluster that scales by itself, before it is given back."""
    gang: bool = False
    """Ask KubeRay's batch scheduler (Volcano, YuniKorn, scheduler-plugins) to place all of a cluster's pods or none.
    Kueue needs no asking: it admits a job as a whole."""
    queue: str = ""
    """Kueue's local queue for the RayJob; empty: no Kueue."""
    priority: str = ""
    """Kueue's WorkloadPriorityClass of the RayJob; empty takes none."""
    schedule: str = ""
    """When to run the pipeline again and again, as cron has it (`0 3 * * *`): a RayCronJob instead of a RayJob. Steps
    that are built already are not built again. Empty: once."""
    time_zone: str = ""
    """Time zone of the schedule (`Europe/Paris`); empty takes that of KubeRay's operator."""
    monitoring: bool = False
    """PodMonitors and alerts for the Prometheus operator, whose CRDs the cluster must have."""
    retries: Annotated[int, Meta(ge=0, le=INT32)] = 2
    """How often a failed RayJob begins anew on a new cluster; finished steps and checkpoints are in the store."""
    deadline_seconds: Annotated[int, Meta(ge=60, le=INT32)] = 7 * 86_400
    """How long a RayJob may take, all its retries together."""
    start_deadline_seconds: Annotated[int, Meta(ge=60, le=INT32)] = 3600
    """How long a RayJob's cluster may take to come up: images to pull, nodes to wait for."""
    keep_seconds: Annotated[int, Meta(ge=0, le=INT32)] = 0
    """How long the head of a finished RayJob stays to be looked at; its workers go at once. Not with `queue`, which
    gives the quota of the whole cluster away as soon as the job has ended."""
    redis_address: str = ""
    """`host:port` of a Redis that lets the endpoint outlive its head; empty: a lost head restarts the endpoint."""
    redis_secret: str = ""
    """Secret that holds Redis's password under the key `password`."""

    def check(self) -> None:
        if self.namespace.startswith(names.SYSTEM_PREFIX):
            raise SpecError(f"infra.namespace: {self.namespace!r} is Kubernetes' own", "Name one that is yours.")
        for field in ("pull_secret", "service_account", "store_secret", "storage_class", "redis_secret", "priority"):
            if (name := getattr(self, field)) and not names.is_name(name):
                raise SpecError(
                    f"infra.{field}: {name!r} cannot be a name in Kubernetes",
                    "At most 253 of a-z, 0-9, - and . are allowed, letters or digits first, last and around dots.",
                )
        if self.queue and not (names.is_name(self.queue) and names.is_value(self.queue)):
            raise SpecError(
                f"infra.queue: {self.queue!r} cannot be a queue's name", "Use a-z, 0-9, - and ., at most 63."
            )
        for field in ("image", "gpu_image"):
            if not names.is_image(getattr(self, field)):
                raise SpecError(f"infra.{field}: not an image", "Give [REGISTRY/]NAME[:TAG][@DIGEST].")
        if self.registry and not names.is_registry(self.registry):
            raise SpecError("infra.registry: not a registry", "Give HOST[:PORT][/PATH].")
        for field in ("gpu_node_selector", "spot_node_selector"):
            for key, value in getattr(self, field).items():
                if not names.is_key(key) or not names.is_value(value):
                    raise SpecError(
                        f"infra.{field}: {key!r}: {value!r} cannot be a label",
                        "Copy it from `kubectl get nodes --show-labels`.",
                    )
        self._check_store()
        if bool(self.redis_address) != bool(self.redis_secret):
            raise SpecError("infra.redis_address: goes with redis_secret and with it only", "Set both, or neither.")
        if self.redis_address and not names.is_address(self.redis_address):
            raise SpecError(
                "infra.redis_address: not of the form host:port, with a port of 1 to 65535",
                "Give that; the password belongs into redis_secret.",
            )
        if self.priority and not self.queue:
            raise SpecError("infra.priority: Kueue's, and there is no queue", "Set infra.queue as well.")
        if self.queue and self.keep_seconds:
            raise SpecError(
                "infra.keep_seconds: with a queue the quota is given away as soon as the job has ended",
                "Set it to 0: what one wants to look at is in the store.",
            )
        self._check_schedule()

    def _check_store(self) -> None:
        if self.store and "://" not in self.store:
            raise SpecError(
                f"infra.store: {self.store!r} is not a URL",
                "Give s3://... or gs://..., or leave it empty for a volume that all pods share.",
            )
        for field in ("store", "store_endpoint"):
            host, _, path = getattr(self, field).partition("://")[2].partition("/")
            if "@" in host or any(mark in host + path for mark in "?#"):
                raise SpecError(
                    f"infra.{field}: user, password and queries do not belong there, where every manifest tells them",
                    "Put what is secret into the secret of infra.store_secret.",
                )
        if self.store and not names.is_store(self.store):
            raise SpecError(
                f"infra.store: {self.store!r} is no place that all pods reach", "Give s3://BUCKET/PREFIX or gs://..."
            )
        for field in ("store_secret", "store_endpoint"):
            if getattr(self, field) and not self.store:
                raise SpecError(f"infra.{field}: the store is a volume and needs none", "Set infra.store as well.")
        if self.store_endpoint and not names.is_http_url(self.store_endpoint):
            raise SpecError(f"infra.store_endpoint: {self.store_endpoint!r} is not a URL", "Give https://host:port.")

    def _check_schedule(self) -> None:
        if self.schedule and not names.is_schedule(self.schedule):
            raise SpecError(
                f"infra.schedule: {self.schedule!r} is not one of cron",
                "Give minute, hour, day, month, weekday: 0 3 * * *.",
            )
        if self.time_zone and not self.schedule:
            raise SpecError("infra.time_zone: there is no schedule", "Set infra.schedule as well.")
        if self.time_zone and self.time_zone not in (known := available_timezones()):
            raise SpecError(f"infra.time_zone: there is no {self.time_zone!r}", nearest(self.time_zone, sorted(known)))
