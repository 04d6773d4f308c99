"""Why something on Kubernetes is not running yet, or no more: what objects, pods, events and Kueue say, as sentences.

Pure functions of what the API server answers: `cluster/kubernetes/following.py` asks it again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cluster.kubernetes.findings import At
from cluster.kubernetes.pods import Manifest

OVER = {"Complete", "Failed", "ValidationFailed"}  # of a RayJob's jobDeploymentStatus
PULLING = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}


def of_job(job: Manifest) -> str:
    """What a RayJob says of itself."""
    status = At(job)["status"]
    deployment = status["jobDeploymentStatus"].text() or "not looked at by KubeRay yet"
    words = [deployment]
    if program := status["jobStatus"].text():
        words.append(f"the program is {program}")
    if retries := (status["failed"].number() or 0):
        words.append(f"failed {retries} times before")
    for name in ("reason", "message"):
        if text := status[name].text():
            words.append(text)
    return ", ".join(words)


def is_over(job: Manifest) -> bool:
    return At(job)["status"]["jobDeploymentStatus"].value in OVER


def succeeded(job: Manifest) -> bool:
    status = At(job)["status"]
    return status["jobDeploymentStatus"].value == "Complete" and status["jobStatus"].value == "SUCCEEDED"


def head_is_ready(cluster: Manifest) -> bool:
    """Whether the head of a RayCluster is."""
    conditions = (At(cluster) / "status.conditions").items()
    return any(each["type"].value == "HeadPodReady" and each["status"].value == "True" for each in conditions)


def of_pod(pod: Manifest) -> str:
    """For what a pod waits, or of what it died; empty where all is well."""
    status = At(pod)["status"]
    if "deletionTimestamp" in At(pod)["metadata"]:
        return ""
    for condition in status["conditions"].items():
        if condition["type"].value == "PodScheduled" and condition["status"].value == "False":
            return f"waits for a node: {condition['message'].text() or condition['reason'].text()}"
    for name in ("initContainerStatuses", "containerStatuses"):
        for container in status[name].items():
            if said := _container(container):
                return said
    if status["phase"].value == "Failed":
        return f"failed: {status['reason'].text()} {status['message'].text()}".strip()
    return ""


def _container(container: At) -> str:
    waiting, ended = container / "state.waiting", container / "state.terminated"
    reason = waiting["reason"].text()
    if reason in PULLING:
        return f"cannot get the image {container['image'].value}: {waiting['message'].text() or reason}"
    if reason == "CrashLoopBackOff":
        last = container / "lastState.terminated"
        return f"{container['name'].value} ended {container['restartCount'].value} times, {_ended(last)}"
    if reason and reason not in ("ContainerCreating", "PodInitializing"):
        return f"{container['name'].value} waits: {waiting['message'].text() or reason}"
    if ended.value and ended["exitCode"].value:
        return f"{container['name'].value} ended, {_ended(ended)}"
    return ""


def _ended(state: At) -> str:
    return f"{state['reason'].text() or 'for no reason told'} (exit code {state['exitCode'].value})"


def of_workload(workload: Manifest) -> str:
    """For what Kueue keeps a job waiting; empty where it runs."""
    conditions = {c["type"].text(): c for c in (At(workload) / "status.conditions").items()}
    true = {name for name, condition in conditions.items() if condition["status"].value == "True"}
    if "Evicted" in true:
        return f"Kueue took its quota away: {conditions['Evicted']['message'].text()}"
    if true & {"Admitted", "Finished"}:
        return ""
    if "QuotaReserved" in conditions and "QuotaReserved" not in true:
        return f"waits in Kueue's queue: {conditions['QuotaReserved']['message'].text()}"
    return "waits in Kueue's queue"


def warnings(events: Iterable[Manifest], names: Iterable[str]) -> Iterator[str]:
    """What events warn of the objects whose names begin so."""
    prefixes = tuple(names)
    for event in events:
        about: Any = event.get("involvedObject", {})
        if event.get("type") == "Warning" and str(about.get("name", "")).startswith(prefixes):
            yield f"{about.get('kind')} {about.get('name')}: {event.get('message') or event.get('reason')}"
