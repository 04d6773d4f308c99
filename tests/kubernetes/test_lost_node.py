"""On a real Kubernetes: pods of a node that is lost are replaced on another one soon, not after five minutes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from cluster.kubernetes.api import Api, placed
from cluster.kubernetes.tree import manifests
from pipelines.specs import InfraSpec
from tests.infra.orders import order
from tests.kubernetes.on_pods import SMALL, until
from tests.kubernetes.server import Server, running

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(900)]

INFRA = InfraSpec(**SMALL)  # type: ignore[arg-type]
KUBERNETES_DEFAULT_SECONDS = 300.0


def bound(server: Server) -> dict[str, str]:
    """Which node each pod of the cluster that is to stay is on."""
    found: list[dict[str, Any]] = json.loads(server.kubectl("-n", INFRA.namespace, "get", "pods", "-o", "json"))[
        "items"
    ]
    return {
        pod["metadata"]["name"]: pod["spec"].get("nodeName", "")
        for pod in found
        if "deletionTimestamp" not in pod["metadata"]
    }


def test_pods_of_a_lost_node_are_made_anew_elsewhere() -> None:
    with running("--nodes", "3", "--cpus", "4") as server:
        api = Api(str(server.kubeconfig))
        wanted = order(INFRA)
        for body in placed(body for found in manifests(wanted).values() for body in found):
            if body["kind"] not in ("Namespace", "PersistentVolumeClaim", "RayCluster"):
                continue
            if body["kind"] == "RayCluster":  # its pods sleep: who replaces them when is what is looked at
                body["metadata"]["annotations"] = {"ray.io/overwrite-container-cmd": "true"}
                spec = body["spec"]
                for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                    group["template"]["spec"]["containers"][0] |= {"command": ["sleep"], "args": ["infinity"]}
                spec["workerGroupSpecs"][0] |= {"replicas": 2, "minReplicas": 2}
                spec.pop("enableInTreeAutoscaling"), spec.pop("autoscalerOptions")
            api.apply(body)
        before = until(
            "three pods on nodes",
            120,
            lambda: (pods := bound(server)) and len(pods) == 3 and all(pods.values()) and pods,
        )
        lost = next(node for name, node in before.items() if "worker" in name)
        began = time.monotonic()
        (server.state / "lost").mkdir(exist_ok=True)
        (server.state / "lost" / lost).touch()

        def replaced() -> bool:
            pods = bound(server)
            return len(pods) == 3 and lost not in pods.values() and all(pods.values())

        until("three pods on other nodes", KUBERNETES_DEFAULT_SECONDS / 2, replaced)
        print(f"replaced after {time.monotonic() - began:.0f} s")
