"""What the rules look at: a RayCluster's spec wherever it stands, and a RayJob's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.kubernetes.findings import At


@dataclass(frozen=True)
class Cluster:
    """A RayCluster's spec, whose it is, and the annotations that count for it."""

    spec: At
    owner: str
    annotations: At

    @property
    def head(self) -> At:
        return self.spec["headGroupSpec"]

    @property
    def workers(self) -> list[At]:
        return list(self.spec["workerGroupSpecs"].items())

    @property
    def groups(self) -> list[At]:
        return [self.head, *self.workers]

    @property
    def autoscaling(self) -> bool:
        return self.spec["enableInTreeAutoscaling"].value is True

    @property
    def version(self) -> str:
        return (self.spec / "autoscalerOptions.version").text()

    @property
    def v2(self) -> bool:
        variable = environment(self.head).get("RAY_enable_autoscaler_v2")
        return self.version == "v2" or (variable is not None and variable["value"].text() in ("1", "true"))


def container(group: At) -> At:
    """The container that runs Ray: the first."""
    return (group / "template.spec.containers")[0]


def environment(group: At) -> dict[str, At]:
    return {entry["name"].text(): entry for entry in container(group)["env"].items()}


def ray_version(cluster: Cluster) -> tuple[int, ...]:
    """As numbers; empty where there is none, or none that can be read."""
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", cluster.spec["rayVersion"].text())
    return tuple(int(part or 0) for part in match.groups()) if match else ()


@dataclass(frozen=True)
class Job:
    """A RayJob's spec, and the metadata that counts for it."""

    spec: At
    metadata: At

    @property
    def mode(self) -> str:
        return self.spec["submissionMode"].text() or "K8sJobMode"

    @property
    def cluster(self) -> At:
        return self.spec["rayClusterSpec"]

    @property
    def shuts_down(self) -> bool:
        return self.spec["shutdownAfterJobFinishes"].value is True

    @property
    def autoscaling(self) -> bool:
        return self.cluster["enableInTreeAutoscaling"].value is True
