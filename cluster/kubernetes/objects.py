"""ScalingSpec, EndpointSpec and InfraSpec -> RayCluster, RayJob and RayService, as plain dicts.

Heads have no CPUs for Ray's tasks, so that nothing that needs memory shares a pod with the control plane. A RayJob gets
exactly the pods that its scaling asks for; clusters that wait for work, or serve a varying load, scale by themselves.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import Any

from cluster.core.errors import SpecError
from cluster.core.specs.access import is_postgres
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.infra import InfraSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import fields
from cluster.kubernetes.pods import (
    APP_FOLDER,
    COMPONENT,
    CONTAINER_SECURITY,
    PART_OF,
    RUN_FOLDER,
    Manifest,
    Pods,
    Size,
)
from cluster.kubernetes.text import block

RAY_VERSION = "2.60.0"
RUN_FILE = "run.yaml"
IDLE_SECONDS = 600  # before a waiting worker's pod is given back
OLD_CLUSTER_SECONDS = 60  # how long an upgraded endpoint's old pods stay for the requests that they have
JOB_NAME_CHARS = 47  # KubeRay's bound


@dataclass(frozen=True)
class Group:
    """A worker group: pods of one size, between `least` and `most` of them."""

    name: str
    size: Size
    least: int
    most: int


@dataclass(frozen=True)
class Order:
    """Everything that the manifests are made from. `run`: the resolved steps, by name, and `scaling`."""

    infra: InfraSpec
    scaling: ScalingSpec
    endpoint: EndpointSpec
    run: dict[str, Any]
    run_name: str

    @property
    def image(self) -> str:
        gpus = self.scaling.gpus_per_worker or self.scaling.gpus_per_rollout or self.endpoint.gpus
        return self.infra.gpu_image if gpus else self.infra.image

    @property
    def job_name(self) -> str:
        name = f"{self.infra.name}-job-{re.sub(r'[^a-z0-9]+', '-', self.run_name.lower()).strip('-')}"
        if len(name) > JOB_NAME_CHARS:
            raise SpecError(
                f"the RayJob would be called {name!r}, longer than KubeRay's {JOB_NAME_CHARS} characters",
                "Give a shorter --name or infra.name.",
            )
        return name


def training_groups(infra: InfraSpec, scaling: ScalingSpec) -> list[Group]:
    """The worker groups that a run needs: one core per pod stays free for what runs beside the workers."""
    together = min(infra.workers_per_pod, scaling.num_workers)
    pods = math.ceil(scaling.num_workers / together)
    cpus = max(math.ceil(together * scaling.cpus_per_worker) + 1, math.ceil(scaling.data_workers / pods))
    gpus = together * int(scaling.gpus_per_worker)
    groups = [Group("workers", Size(cpus, together * infra.worker_memory_gib, gpus), pods, pods)]
    if scaling.cpus_per_rollout or scaling.gpus_per_rollout:
        size = Size(
            math.ceil(scaling.cpus_per_rollout) + 1, infra.worker_memory_gib, math.ceil(scaling.gpus_per_rollout)
        )
        groups.append(Group("rollouts", size, scaling.rollout_workers, scaling.rollout_workers))
    return groups


def ray_cluster(order: Order) -> Manifest:
    """A cluster to submit to: one pod of each group waits, the others come and go with the work."""
    groups = [Group(g.name, g.size, 1, g.most) for g in training_groups(order.infra, order.scaling)]
    pods = Pods(order.infra, "cluster", order.image)
    spec = _cluster_spec(pods, groups, autoscaler=True)
    return _manifest(order.infra, "RayCluster", order.infra.name, pods.component, spec)


def ray_job(order: Order) -> Manifest:
    """The pipeline on a cluster of its own, which ends with it."""
    infra = order.infra
    pods = Pods(infra, "job", order.image, run_config=order.job_name)
    script = f"{APP_FOLDER}/{infra.pipeline}"
    command = ["python", script, "--config", f"{RUN_FOLDER}/{RUN_FILE}", "--name", order.run_name]
    spec = {
        "entrypoint": shlex.join(command),
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": infra.keep_seconds,
        "activeDeadlineSeconds": infra.deadline_seconds,
        "preRunningDeadlineSeconds": infra.start_deadline_seconds,
        "backoffLimit": infra.retries,
        "submitterPodTemplate": pods.submitter(),
        "rayClusterSpec": _cluster_spec(pods, training_groups(infra, order.scaling), autoscaler=False),
    }
    job = _manifest(infra, "RayJob", order.job_name, pods.component, spec)
    if infra.queue:
        job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = infra.queue
    return job


def ray_service(order: Order) -> Manifest:
    """The endpoint. A change of its cluster brings up a new one and switches to it when it answers."""
    infra, endpoint = order.infra, order.endpoint
    pods = Pods(infra, "endpoint", order.image)
    size = Size(math.ceil(endpoint.cpus) + 1, infra.replica_memory_gib, endpoint.gpus)
    group = Group("replicas", size, endpoint.min_replicas, endpoint.max_replicas)
    autoscaler = endpoint.max_replicas > endpoint.min_replicas
    cluster = _cluster_spec(pods, [group], autoscaler=autoscaler, ports={"serve": endpoint.port})
    if infra.redis_address:
        password = {"secretKeyRef": {"name": infra.redis_secret, "key": "password"}}
        cluster["gcsFaultToleranceOptions"] = {
            "redisAddress": infra.redis_address,
            "redisPassword": {"valueFrom": password},
        }
    spec = {
        "serveConfigV2": block(serve_config(endpoint)),
        "upgradeStrategy": {"type": "NewCluster"},
        "rayClusterDeletionDelaySeconds": OLD_CLUSTER_SECONDS,
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": cluster,
    }
    return _manifest(infra, "RayService", f"{infra.name}-endpoint", pods.component, spec)


def serve_config(endpoint: EndpointSpec) -> Manifest:
    """Ray Serve's own configuration: `serving.kuberay:app` builds the application from the endpoint's spec.

    Raises SpecError for what pods cannot have: keys in a file, a certificate.
    """
    access = endpoint.access
    if access.keys and not is_postgres(access.database):
        raise SpecError(
            "endpoint.access.database: a file would be one pod's alone, and go with it",
            "Give postgresql://USER@HOST/NAME, and PGPASSWORD in the secret of infra.store_secret.",
        )
    if access.tls_certificate:
        raise SpecError("endpoint.access.tls_certificate: pods have no such file", "Let the Ingress end TLS.")
    name = endpoint.served_name or re.sub(r"[^\w.-]+", "-", endpoint.model.rpartition("/")[2])
    arguments = {key: value for key, value in fields(endpoint).items() if key not in ("host", "port")}
    application = {
        "name": name,
        "import_path": "serving.kuberay:app",
        "route_prefix": "/",
        "args": arguments | {"served_name": name},
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": endpoint.port},
        "applications": [application],
    }


def _cluster_spec(
    pods: Pods, groups: list[Group], *, autoscaler: bool, ports: dict[str, int] | None = None
) -> Manifest:
    """`ports`: of the container beyond Ray's own, on heads and workers."""
    infra, ports = pods.infra, ports or {}
    head = Size(infra.head_cpus, infra.head_memory_gib)
    spec: Manifest = {"rayVersion": RAY_VERSION, "authOptions": {"mode": "token"}}
    if autoscaler:
        spec |= {
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {
                "version": "v2",
                "idleTimeoutSeconds": IDLE_SECONDS,
                "resources": Size(1, 1).resources(),
                "securityContext": CONTAINER_SECURITY,
            },
        }
    spec["headGroupSpec"] = {
        "rayStartParams": {"num-cpus": "0"},
        "template": pods.head(head, ports=ports, autoscaler=autoscaler),
    }
    spec["workerGroupSpecs"] = [
        {
            "groupName": group.name,
            "replicas": group.least,
            "minReplicas": group.least,
            "maxReplicas": group.most,
            "rayStartParams": {},
            "template": pods.worker(group.size, ports=ports),
        }
        for group in groups
    ]
    return spec


def _manifest(infra: InfraSpec, kind: str, name: str, component: str, spec: Manifest) -> Manifest:
    labels = {PART_OF: infra.name, COMPONENT: component}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}
