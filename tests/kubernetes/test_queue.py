"""On a real Kueue with quota for one job: the second waits, a more urgent one preempts the first, which saves before it
goes, and goes on to the bits of a run that nothing happened to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.kubernetes.api import Api
from cluster.kubernetes.following import follow
from pipelines.specs import InfraSpec
from tests.kubernetes.on_pods import SMALL, until, with_pods
from tests.kubernetes.server import Server
from tests.kubernetes.training import END_SECONDS, LOST_SECONDS, SCALING, START_SECONDS, Training, job, undisturbed

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(2400)]

STEPS = 3000
FEW_STEPS = 20
BEGUN = ("Initializing", "Running", "Complete")
INFRA = InfraSpec(**SMALL, queue="lab", priority="patient")  # type: ignore[arg-type]
URGENT = msgspec.structs.replace(INFRA, priority="urgent")
KUEUE = "kueue.x-k8s.io/v1beta2"
CPUS = 4  # of a head, a worker and a submitter: 1, 2, 1
# No clock asks for a checkpoint, only who takes the pods away.
ALONE = msgspec.structs.replace(SCALING, num_workers=1, checkpoint_every_seconds=10_000)


def queue(server: Server, namespace: str) -> None:
    """A queue with room for one of the jobs, where those of lower priority make way."""
    quotas = [{"name": "cpu", "nominalQuota": str(CPUS)}, {"name": "memory", "nominalQuota": "64Gi"}]
    groups = [{"coveredResources": ["cpu", "memory"], "flavors": [{"name": "any", "resources": quotas}]}]
    made: list[dict[str, Any]] = [
        {"kind": "ResourceFlavor", "metadata": {"name": "any"}},
        {
            "kind": "ClusterQueue",
            "metadata": {"name": "all"},
            "spec": {
                "namespaceSelector": {},
                "resourceGroups": groups,
                "preemption": {"withinClusterQueue": "LowerPriority"},
            },
        },
        {
            "kind": "LocalQueue",
            "metadata": {"name": "lab", "namespace": namespace},
            "spec": {"clusterQueue": "all"},
        },
        *({"kind": "WorkloadPriorityClass", "metadata": {"name": n}, "value": v} for n, v in PRIORITIES.items()),
    ]
    namespaces = json.loads(server.kubectl("get", "namespaces", "-o", "json"))["items"]
    if namespace not in [each["metadata"]["name"] for each in namespaces]:
        server.kubectl("create", "namespace", namespace)
    for body in made:
        server.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": KUEUE, **body}))


PRIORITIES = {"patient": 10, "urgent": 1000}


def saved_at(training: Training) -> list[int]:
    """The steps after which checkpoints were written."""
    return sorted(int(path.name.split("-")[1]) for path in training.folder.glob(".staging/*/.train/checkpoints/step-*"))


def test_a_job_waits_for_its_turn_and_makes_way_for_an_urgent_one(tmp_path: Path) -> None:
    first = job(INFRA, STEPS, "first", ALONE)
    wanted = undisturbed(tmp_path, first)
    with with_pods("--kueue", "--nodes", "1", "--cpus", "12") as server:
        queue(server, INFRA.namespace)
        began = time.monotonic()

        def tell(what: str) -> None:
            print(f"{time.monotonic() - began:.0f} s: {what}", flush=True)

        one = Training(server, first)
        one.apply()
        one.await_steps(30, START_SECONDS)
        tell(f"the first is at step {one.step()}")

        two = Training(server, job(INFRA, FEW_STEPS, "second", ALONE, seed=2))
        two.apply()
        api = Api(str(server.kubeconfig), namespace=INFRA.namespace)
        said = next(line for line in follow(api, two.order.job_name) if "quota" in line)
        assert "waits in Kueue's queue" in said
        tell(said)
        assert two.pods() == [] and saved_at(one) == []

        urgent = Training(server, job(URGENT, FEW_STEPS, "urgent", ALONE, seed=3))
        urgent.apply()
        until("the first makes way", LOST_SECONDS, lambda: one.status().get("jobDeploymentStatus") == "Suspended")
        urgent.await_success()
        tell("the urgent one has ended")
        assert not one.has_ended() and not two.has_ended()
        saved = saved_at(one)
        assert saved, "it was not saved before it went"

        one.await_success()
        tell(f"the first has ended, saved after step {saved}")
        assert one.sha256() == wanted
        until("the second's turn", END_SECONDS, lambda: two.status().get("jobDeploymentStatus") in BEGUN)
        tell("the second has its turn")
