"""Follow a RayJob to its end, or a RayCluster until its head is ready: each change, and why it waits, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from cluster.core.errors import InputError, JobError, NotReadyError, nearest
from cluster.kubernetes import reasons
from cluster.kubernetes.api import Api
from cluster.kubernetes.objects import QUEUE
from cluster.kubernetes.pods import Manifest

RAY = "ray.io/v1"
KUEUE = "kueue.x-k8s.io/v1beta2"
PODS = "ray.io/cluster={}"  # label of the pods of a RayCluster
POLL_SECONDS = 2.0


def follow(api: Api, name: str, wait: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Lines to show, until the job has ended; `wait` is called between two looks.

    Raises InputError where there is no such job, JobError where it fails or is taken away.
    """
    told: set[str] = set()
    state = ""
    job: Manifest | None = None
    while True:
        job, before = _job(api, name), job
        if job is None:
            if before is None:
                names = [each["metadata"]["name"] for each in api.items(RAY, "RayJob")]
                raise InputError(f"there is no RayJob {name!r} in {api.namespace}", nearest(name, names))
            raise JobError(f"the RayJob {name!r} was deleted", "Apply it again: what it has built is in the store.")
        if (now := reasons.of_job(job)) != state:
            state = now
            yield f"{name}: {now}"
        for line in _why(api, job):
            if line not in told:
                told.add(line)
                yield line
        if reasons.is_over(job):
            if not reasons.succeeded(job):
                raise JobError(f"{name}: {state}", f"`kubectl -n {api.namespace} logs job/{name}` shows its output.")
            return
        wait(POLL_SECONDS)


def until_ready(api: Api, name: str, limit_seconds: float, wait: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Lines to show, until the head of a RayCluster is ready; `wait` is called between two looks.

    Raises JobError where it is deleted meanwhile, NotReadyError where it takes longer than the limit.
    """
    told: set[str] = set()
    why, deadline = "", time.monotonic() + limit_seconds
    while True:
        found = ray_cluster(api, name)
        if found is None:
            raise JobError(f"the RayCluster {name!r} was deleted", "Say `ctl up` again.")
        if reasons.head_is_ready(found):
            return
        for why in _pods(api, [PODS.format(name)], [name]):
            if why not in told:
                told.add(why)
                yield why
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"the head of {name} is not ready after {limit_seconds:.0f} s" + (f": {why}" if why else ""),
                f"Look at it: `kubectl -n {api.namespace} describe raycluster {name}`.",
            )
        wait(POLL_SECONDS)


def ray_cluster(api: Api, name: str) -> Manifest | None:
    """What is there of a RayCluster."""
    return api.find({"apiVersion": RAY, "kind": "RayCluster", "metadata": {"name": name}})


def _job(api: Api, name: str) -> Manifest | None:
    return api.find({"apiVersion": RAY, "kind": "RayJob", "metadata": {"name": name}})


def _why(api: Api, job: Manifest) -> Iterator[str]:
    """Why it waits: its queue, its pods, and what events warn of."""
    name = job["metadata"]["name"]
    cluster = job.get("status", {}).get("rayClusterName", "")
    if QUEUE in (job["metadata"].get("labels") or {}):
        yield from _queue(api, job)
    selectors = filter(None, (PODS.format(cluster) if cluster else "", f"job-name={name}"))
    yield from _pods(api, selectors, [each for each in (name, cluster) if each])


def _pods(api: Api, selectors: Iterable[str], names: list[str]) -> Iterator[str]:
    """For what pods wait, and what events warn of the objects whose names begin so."""
    for selector in selectors:
        for pod in api.items("v1", "Pod", selector):
            if said := reasons.of_pod(pod):
                yield f"pod {pod['metadata']['name']} {said}"
    yield from reasons.warnings(api.items("v1", "Event"), names)


def _queue(api: Api, job: Manifest) -> Iterator[str]:
    for workload in api.items(KUEUE, "Workload"):
        owners = workload["metadata"].get("ownerReferences", ())
        if job["metadata"]["uid"] in [owner["uid"] for owner in owners] and (said := reasons.of_workload(workload)):
            yield f"{job['metadata']['name']} {said}"
