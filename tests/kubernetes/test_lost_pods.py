"""On a real KubeRay: a job that trains loses a worker's pod, its head, a node by a drain and one by a power cut, and it
ends with the bits of a run that nothing happened to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.specs import InfraSpec
from tests.kubernetes.on_pods import SMALL, with_pods
from tests.kubernetes.server import Server
from tests.kubernetes.training import LOST_SECONDS, START_SECONDS, Training, job, undisturbed

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(2400)]

STEPS = 1500
GOES_ON = 30  # steps beyond all that were before
INFRA = InfraSpec(**SMALL)  # type: ignore[arg-type]


def kind(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"]["ray.io/node-type"])


def with_a_worker(training: Training) -> str:
    """A node with a training worker, without the head."""
    pods = training.pods()
    heads = {pod["spec"]["nodeName"] for pod in pods if kind(pod) == "head"}
    return next(
        pod["spec"]["nodeName"] for pod in pods if kind(pod) == "worker" and pod["spec"]["nodeName"] not in heads
    )


def delete(training: Training, which: str) -> None:
    name = next(pod["metadata"]["name"] for pod in training.pods() if kind(pod) == which)
    training.server.kubectl("-n", training.namespace, "delete", "pod", name, "--grace-period=0", "--force")


def lose(server: Server, node: str) -> None:
    """As by a power cut."""
    (server.state / "lost").mkdir(exist_ok=True)
    (server.state / "lost" / node).touch()


def test_a_job_that_loses_pods_and_nodes_ends_with_the_same_bits(tmp_path: Path) -> None:
    wanted = undisturbed(tmp_path, job(INFRA, STEPS, "tiny"))
    with with_pods("--nodes", "3", "--cpus", "4") as server:
        training = Training(server, job(INFRA, STEPS, "tiny"))
        began = time.monotonic()

        def go_on(what: str, seconds: float = LOST_SECONDS) -> None:
            training.await_steps(GOES_ON, seconds)
            print(f"{time.monotonic() - began:.0f} s: step {training.step()} after {what}", flush=True)

        training.apply()
        go_on("the start", START_SECONDS)
        delete(training, "worker")
        go_on("a worker's pod was lost")
        delete(training, "head")
        go_on("the head was lost")
        drained = with_a_worker(training)
        server.kubectl("drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=100s")
        go_on("a drain")
        server.kubectl("uncordon", drained)
        lose(server, with_a_worker(training))
        go_on("a node was lost")
        training.await_success()
        print(f"{time.monotonic() - began:.0f} s: ended: {training.status()}")
        assert training.sha256() == wanted
