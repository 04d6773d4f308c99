"""ScalingSpec, EndpointSpec and InfraSpec -> RayCluster, RayJob and RayService, as plain dicts.

Heads have no CPUs for Ray's tasks, so that nothing that needs memory shares a pod with the control plane. A RayJob gets
exactly the pods that its scaling asks for; clusters that wait for work, or serve a varying load, scale by themselves.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from dataclasses import dataclass, replace
from typing import Any

from cluster.control import places
from cluster.core.errors import SpecError
from cluster.core.specs.access import is_postgres
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.infra import InfraSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import canonical, fields
from cluster.kubernetes.pods import (
    APP_FOLDER,
    COMPONENT,
    CONTAINER_SECURITY,
    HEAD_PORTS,
    METRICS_PORTS,
    PART_OF,
    RUN_FOLDER,
    Manifest,
    Pods,
    Size,
)
from cluster.kubernetes.text import block

RAY_VERSION = "2.60.0"
RUN_FILE = "run.yaml"
OLD_CLUSTER_SECONDS = 60  # how long an upgraded endpoint's old pods stay for the requests that they have
JOB_NAME_CHARS = {"RayJob": 47, "RayCronJob": 36}  # KubeRay's bounds
IMPORT_PATH = "serving.kuberay:app"
MADE_OF = "trunkline.io/made-of"  # annotation: a digest of what the endpoint serves
QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
GANG = {"ray.io/gang-scheduling-enabled": "true"}


@dataclass(frozen=True)
class Group:
    """A worker group: pods of one size, between `least` and `most` of them. `places`: what each brings for ranks or
    engines (cluster/control/places.py)."""

    name: str
    size: Size
    least: int
    most: int
    places: tuple[str, int] | None = None


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
        image = self.infra.gpu_image if gpus else self.infra.image
        return _mirrored(image, self.infra.registry)

    @property
    def job_kind(self) -> str:
        return "RayCronJob" if self.infra.schedule else "RayJob"

    @property
    def job_name(self) -> str:
        name = f"{self.infra.name}-job-{re.sub(r'[^a-z0-9]+', '-', self.run_name.lower()).strip('-')}"
        if len(name) > (most := JOB_NAME_CHARS[self.job_kind]):
            raise SpecError(
                f"the {self.job_kind} would be called {name!r}, longer than KubeRay's {most} characters",
                "Give a shorter --name or infra.name.",
            )
        return name


def _mirrored(image: str, registry: str) -> str:
    """The image as the registry has it, which stands in the place of the one that it names."""
    if not registry:
        return image
    host, slash, rest = image.partition("/")
    named = slash and ("." in host or ":" in host or host == "localhost")
    return f"{registry}/{rest if named else image}"


def training_groups(infra: InfraSpec, scaling: ScalingSpec) -> list[Group]:
    """The worker groups that a run needs: one core per pod stays free for what runs beside the workers, and no pod has
    a place for a rank more than `workers_per_pod`."""
    together = min(infra.workers_per_pod, scaling.num_workers)
    pods = math.ceil(scaling.num_workers / together)
    each = scaling.cpus_per_worker + (scaling.cpus_per_rollout if scaling.colocated_fraction else 0)
    cpus = max(math.ceil(together * each) + 1, math.ceil(scaling.data_workers / pods))
    gpus = together * int(scaling.gpus_per_worker)
    size = Size(cpus, together * infra.worker_memory_gib, gpus)
    groups = [Group("workers", size, pods, pods, (places.RANK, together))]
    beside = bool(scaling.colocated_fraction)  # engines in the workers' pods
    if not beside and (scaling.cpus_per_rollout or scaling.gpus_per_rollout):
        size = Size(
            math.ceil(scaling.cpus_per_rollout) + 1, infra.worker_memory_gib, math.ceil(scaling.gpus_per_rollout)
        )
        engines = scaling.rollout_workers
        groups.append(Group("rollouts", size, engines, engines, (places.ENGINE, 1)))
    return groups


def ray_cluster(order: Order) -> Manifest:
    """A cluster to submit to: one pod of each group waits, the others come and go with the work."""
    groups = [replace(group, least=1) for group in training_groups(order.infra, order.scaling)]
    most = {
        "CPU": sum(group.most * group.size.cpus for group in groups),
        "GPU": sum(group.most * group.size.gpus for group in groups),
    }
    pods = Pods(order.infra, "cluster", order.image, places=_named(groups), most=most)
    spec = _cluster_spec(pods, groups, autoscaler=True, ports={"serve": order.endpoint.port})  # of `ctl serve up`
    return _manifest(order.infra, "RayCluster", order.infra.name, pods.component, spec)


def ray_job(order: Order) -> Manifest:
    """The pipeline on a cluster of its own, whose workers end with it: once, or as often as the schedule says."""
    infra = order.infra
    groups = training_groups(infra, order.scaling)
    pods = Pods(infra, "job", order.image, run_config=order.job_name, places=_named(groups))
    script = f"{APP_FOLDER}/{infra.pipeline}"
    command = ["python", script, "--config", f"{RUN_FOLDER}/{RUN_FILE}", "--name", order.run_name]
    spec = {
        "entrypoint": shlex.join(command),
        "submissionMode": "K8sJobMode",
        **_ending(infra.keep_seconds),
        "activeDeadlineSeconds": infra.deadline_seconds,
        "preRunningDeadlineSeconds": infra.start_deadline_seconds,
        "backoffLimit": infra.retries,
        "submitterPodTemplate": pods.submitter(),
        "rayClusterSpec": _cluster_spec(pods, groups, autoscaler=False),
    }
    if infra.schedule:
        spec = {
            "schedule": infra.schedule,
            **({"timeZone": infra.time_zone} if infra.time_zone else {}),
            "jobTemplate": spec,
        }
    job = _manifest(infra, order.job_kind, order.job_name, pods.component, spec)
    job["metadata"]["labels"] |= {key: name for key, name in ((QUEUE, infra.queue), (PRIORITY, infra.priority)) if name}
    return job


def _ending(keep_seconds: int) -> Manifest:
    """The workers go when the job has ended, and with them what one pays for."""
    if not keep_seconds:
        return {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 0}
    ends = [{"jobStatus": "SUCCEEDED"}, {"jobStatus": "FAILED"}, {"jobDeploymentStatus": "Failed"}]
    rules = [
        {"policy": policy, "condition": end | {"ttlSeconds": seconds}}
        for end in ends
        for policy, seconds in (("DeleteWorkers", 0), ("DeleteCluster", keep_seconds))
    ]
    return {"deletionStrategy": {"deletionRules": rules}}


def ray_service(order: Order) -> Manifest:
    """The endpoint. What it serves stands as a digest at its pods, too: KubeRay changes an application in place, and so
    takes the old model away before the new one answers, unless the pods differ. Then it makes a second cluster, and
    switches when that one is ready; where it never is, the old one goes on.

    Raises SpecError for a port that Ray has.
    """
    infra, endpoint = order.infra, order.endpoint
    if name := next((n for n, port in (HEAD_PORTS | METRICS_PORTS).items() if port == endpoint.port), ""):
        raise SpecError(f"endpoint.port: {endpoint.port} is Ray's own ({name}) in its pods", "Take another: 8000.")
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
    for group_spec in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        group_spec["template"]["metadata"]["annotations"] = {MADE_OF: made_of(endpoint)}
    spec = {
        "serveConfigV2": block(serve_config(endpoint, infra.name)),
        "upgradeStrategy": {"type": "NewCluster"},
        "rayClusterDeletionDelaySeconds": OLD_CLUSTER_SECONDS,
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": cluster,
    }
    return _manifest(infra, "RayService", f"{infra.name}-endpoint", pods.component, spec)


def made_of(endpoint: EndpointSpec) -> str:
    """A digest of all that makes another model, or another way to serve it; not of how many replicas there are, which
    Serve changes in place."""
    shown = {key: value for key, value in fields(endpoint).items() if key not in ("min_replicas", "max_replicas")}
    return hashlib.sha256(canonical(shown).encode()).hexdigest()[:16]


def serve_config(endpoint: EndpointSpec, application_name: str) -> Manifest:
    """Ray Serve's own configuration: `serving.kuberay:app` builds the application from the endpoint's spec. The
    application is called the same whatever the model: another name would be another application beside it.

    Raises SpecError for what pods cannot have: keys in a file, a certificate, another endpoint beside theirs.
    """
    access = endpoint.access
    if access.keys and not is_postgres(access.database):
        raise SpecError(
            "endpoint.access.database: a file would be one pod's alone, and go with it",
            "Give postgresql://USER@HOST/NAME, and PGPASSWORD in the secret of infra.store_secret.",
        )
    if access.tls_certificate:
        raise SpecError("endpoint.access.tls_certificate: pods have no such file", "Let the Ingress end TLS.")
    if endpoint.scorer:
        raise SpecError("endpoint.scorer: a manifest's endpoint has none beside it that could score", "Leave it empty.")
    name = endpoint.served_name or re.sub(r"[^\w.-]+", "-", endpoint.model.rpartition("/")[2])
    arguments = {key: value for key, value in fields(endpoint).items() if key not in ("host", "port")}
    application = {
        "name": application_name,
        "import_path": IMPORT_PATH,
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
                "idleTimeoutSeconds": infra.idle_seconds,
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
            "rayStartParams": _places(group),
            "template": pods.worker(group.size, ports=ports, spot=group.places is not None),
        }
        for group in groups
    ]
    return spec


def _named(groups: list[Group]) -> tuple[str, ...]:
    return tuple(group.places[0] for group in groups if group.places)


def _places(group: Group) -> dict[str, str]:
    """As KubeRay and Ray's autoscaler read it: JSON, quoted for a shell."""
    return {"resources": json.dumps(json.dumps(dict([group.places])))} if group.places else {}


def _manifest(infra: InfraSpec, kind: str, name: str, component: str, spec: Manifest) -> Manifest:
    labels = {PART_OF: infra.name, COMPONENT: component}
    labels |= GANG if infra.gang else {}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}
