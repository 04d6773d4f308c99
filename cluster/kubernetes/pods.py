"""The pods of a Ray cluster: one container of our image, what it may use and what it may do.

What KubeRay puts in by itself is left to it: the start command, the token, the probes, /dev/shm, the autoscaler. CPUs,
memory and GPUs stand in the container's limits only, from which KubeRay tells Ray what a pod has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from cluster.control import growth, places
from cluster.control.runtime import ENVIRONMENT
from cluster.core.clusters.kinds import STORE_FOLDER
from cluster.core.specs.infra import InfraSpec

STORE_VARIABLE = "TRUNKLINE_STORE"
RUN_FOLDER = "/etc/trunkline"
APP_FOLDER = "/home/trunkline/app"  # where the Dockerfiles put the project
USER_ID = 1000  # the Dockerfiles' user
STOP_SECONDS = 60  # a training worker saves a checkpoint; then, what Ray's processes may take to end
GPU = "nvidia.com/gpu"
LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")  # taints of a node that says nothing more
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"

HEAD_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001}
METRICS_PORTS = {"metrics": 8080, "as-metrics": 44217, "dash-metrics": 44227}  # of Ray, its autoscaler, its dashboard

CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """What one pod has."""

    cpus: int
    memory_gib: int
    gpus: int = 0

    def resources(self) -> Manifest:
        """Limits, and requests equal to them: a pod that gets what it asks for is the last to be evicted."""
        quantities = {"cpu": str(self.cpus), "memory": f"{self.memory_gib}Gi"}
        if self.gpus:
            quantities[GPU] = str(self.gpus)
        return {"limits": quantities, "requests": dict(quantities)}


@dataclass(frozen=True)
class Pods:
    """Makes the pod templates of one component (`cluster`, `job`, `endpoint`), with one image."""

    infra: InfraSpec
    component: str
    image: str
    run_config: str = ""  # ConfigMap that the head sees in RUN_FOLDER
    places: tuple[str, ...] = ()  # that the cluster's workers bring (cluster/control/places.py)
    most: dict[str, int] = field(default_factory=dict)  # that a cluster has which grows (cluster/control/growth.py)

    def head(self, size: Size, *, ports: dict[str, int], autoscaler: bool) -> Manifest:
        """The head: Ray's control plane and the drivers of jobs."""
        container = self._container("ray-head", size, HEAD_PORTS | METRICS_PORTS | ports)
        template = self._template(container, token=autoscaler)
        if self.run_config:
            spec = template["spec"]
            mount = {"name": "run", "mountPath": RUN_FOLDER, "readOnly": True}
            spec.setdefault("volumes", []).append({"name": "run", "configMap": {"name": self.run_config}})
            spec["containers"][0].setdefault("volumeMounts", []).append(mount)
        return template

    def worker(self, size: Size, *, ports: dict[str, int], spot: bool = False) -> Manifest:
        """A worker; what runs in it is asked to end, and waited for, before the pod goes. `spot`: it may be where nodes
        are taken away."""
        infra = self.infra
        container = self._container("ray-worker", size, {"metrics": METRICS_PORTS["metrics"]} | ports)
        leave = f"python -m cluster.control.leaving {STOP_SECONDS}; ray stop --grace-period {STOP_SECONDS}"
        command = ["/bin/sh", "-c", leave]
        container["lifecycle"] = {"preStop": {"exec": {"command": command}}}
        template = self._template(container)
        template["spec"]["terminationGracePeriodSeconds"] = 2 * STOP_SECONDS + 30
        selector = (infra.gpu_node_selector if size.gpus else {}) | (infra.spot_node_selector if spot else {})
        keys = [GPU] * bool(size.gpus) + list(infra.spot_node_selector if spot else ())
        template["spec"]["tolerations"] += [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]
        if selector:
            template["spec"]["nodeSelector"] = dict(selector)
        return template

    def submitter(self) -> Manifest:
        """The pod that submits a RayJob and follows its log; KubeRay fills in the command."""
        container = {
            "name": "ray-job-submitter",
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "resources": Size(1, 1).resources(),
            "securityContext": CONTAINER_SECURITY,
        }
        template = self._template(container, volumes=[])
        template["spec"]["restartPolicy"] = "Never"
        return template

    def _container(self, name: str, size: Size, ports: dict[str, int]) -> Manifest:
        infra = self.infra
        environment = ENVIRONMENT | {STORE_VARIABLE: infra.store or STORE_FOLDER}
        if self.places:
            environment[places.VARIABLE] = ",".join(self.places)
        if self.most:
            environment[growth.VARIABLE] = json.dumps(self.most)
        if infra.store_endpoint:
            environment["AWS_ENDPOINT_URL"] = infra.store_endpoint
        if infra.offline:
            environment |= OFFLINE
        return _without_empty(
            {
                "name": name,
                "image": self.image,
                "imagePullPolicy": "IfNotPresent",
                "ports": [{"name": key, "containerPort": port} for key, port in ports.items()],
                "env": [{"name": key, "value": value} for key, value in sorted(environment.items())],
                "envFrom": [{"secretRef": {"name": infra.store_secret}}] if infra.store_secret else [],
                "resources": size.resources(),
                "securityContext": CONTAINER_SECURITY,
                "volumeMounts": [] if infra.store else [{"name": "store", "mountPath": STORE_FOLDER}],
            }
        )

    def _template(self, container: Manifest, volumes: list[Manifest] | None = None, token: bool = False) -> Manifest:
        """`token`: the pod talks to the API server."""
        infra = self.infra
        claim = {"claimName": f"{infra.name}-store"}
        stored = [] if infra.store else [{"name": "store", "persistentVolumeClaim": claim}]
        spec = {
            "securityContext": POD_SECURITY,
            "serviceAccountName": infra.service_account,
            "imagePullSecrets": [{"name": infra.pull_secret}] if infra.pull_secret else [],
            "containers": [container],
            "volumes": stored if volumes is None else volumes,
            # Kubernetes' own default keeps the pods of a lost node for five minutes.
            "tolerations": [
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": infra.node_loss_seconds}
                for key in LOST
            ],
        }
        spec = _without_empty(spec) | ({} if token else {"automountServiceAccountToken": False})
        return {"metadata": {"labels": {PART_OF: infra.name, COMPONENT: self.component}}, "spec": spec}


def _without_empty(manifest: Manifest) -> Manifest:
    return {key: value for key, value in manifest.items() if value not in ("", [], {})}
