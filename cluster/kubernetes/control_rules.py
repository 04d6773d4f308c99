"""What KubeRay 1.7 asks of a RayCluster's spec about its control plane: tokens, fault tolerance, network, ownership."""

from __future__ import annotations

import re

from cluster.kubernetes.findings import At, Problems
from cluster.kubernetes.views import Cluster, environment, ray_version

FT_ANNOTATION = "ray.io/ft-enabled"
NAMESPACE_ANNOTATION = "ray.io/external-storage-namespace"
OPERATOR_NAME = "ray.io/kuberay-operator"
MANAGERS = (OPERATOR_NAME, "kueue.x-k8s.io/multikueue")
# Fields that KubeRay 1.7 refuses unless the operator was started with a feature gate that is off by default.
GATED = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}


def authentication(cluster: Cluster) -> Problems:
    options, version = cluster.spec["authOptions"], ray_version(cluster)
    service_accounts = options["enableK8sTokenAuth"].value is True
    if options["mode"].value == "token":
        if not cluster.spec["rayVersion"]:
            yield cluster.spec["rayVersion"].error("is missing, and tokens need Ray 2.52", "State it: 2.60.0.")
        elif version < (2, 52):
            yield cluster.spec["rayVersion"].error("tokens need Ray 2.52", "Give 2.52.0 or later.")
        if service_accounts and version and version < (2, 55):
            yield cluster.spec["rayVersion"].error("enableK8sTokenAuth needs Ray 2.55", "Give 2.55.0 or later.")
        if service_accounts and options["secretName"]:
            yield options["secretName"].error("does not go with enableK8sTokenAuth", "Keep one of them.")
    else:
        if service_accounts:
            yield options["enableK8sTokenAuth"].error("works with mode: token only", "Set authOptions.mode: token.")
        yield options["mode"].warning(
            "without a token everyone who reaches the dashboard runs code here (CVE-2023-48022)",
            "Set authOptions.mode: token.",
        )
    if service_accounts and cluster.owner != "RayCluster":
        yield options["enableK8sTokenAuth"].error(f"is not supported for a {cluster.owner}", "Leave it out.")


def head_fault_tolerance(cluster: Cluster) -> Problems:
    options, variables = cluster.spec["gcsFaultToleranceOptions"], environment(cluster.head)
    username = (cluster.head / "rayStartParams")["redis-username"]
    for place in (username, *(variables[name]["name"] for name in ("REDIS_USERNAME",) if name in variables)):
        if place:
            yield place.error("KubeRay sets it", "Use gcsFaultToleranceOptions.redisUsername.")
    if options.value is None:
        enabled = cluster.annotations[FT_ANNOTATION].text().lower() == "true"
        if "RAY_REDIS_ADDRESS" in variables and not enabled:
            yield variables["RAY_REDIS_ADDRESS"]["name"].error(
                "turns fault tolerance on behind KubeRay's back", "Use gcsFaultToleranceOptions.redisAddress."
            )
        return
    for name, field in (("RAY_REDIS_ADDRESS", "redisAddress"), ("REDIS_PASSWORD", "redisPassword")):
        if name in variables:
            yield variables[name]["name"].error("KubeRay sets it", f"Use gcsFaultToleranceOptions.{field}.")
    if password := (cluster.head / "rayStartParams")["redis-password"]:
        yield password.error("KubeRay sets it", "Use gcsFaultToleranceOptions.redisPassword.")
    for annotation in (FT_ANNOTATION, NAMESPACE_ANNOTATION):
        if cluster.annotations[annotation]:
            yield cluster.annotations[annotation].error("gcsFaultToleranceOptions says it already", "Leave it out.")
    yield from _backend(options)


def _backend(options: At) -> Problems:
    redis_fields = ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace")
    if options["backend"].value == "rocksdb":
        yield options["backend"].warning(
            "is alpha: KubeRay refuses it unless started with the feature gate GCSFaultToleranceEmbeddedStorage",
            "Use Redis, or turn the gate on.",
        )
        for name in redis_fields:
            if name in options:
                yield options[name].error("does not go with backend: rocksdb", "Leave it out.")
        if "claimName" in options["storage"]:
            for name in ("size", "storageClassName", "accessModes"):
                if name in options["storage"]:
                    yield options["storage"][name].error("does not go with claimName", "Keep one of them.")
    else:
        if options["storage"].value is not None:
            yield options["storage"].error("works with backend: rocksdb only", "Leave it out.")
        if not options["redisAddress"]:
            yield options["redisAddress"].warning("is missing", "Give host:port of the Redis.")


def network(cluster: Cluster) -> Problems:
    policy = cluster.spec["networkPolicy"]
    if policy.value is None:
        return
    mode = policy["mode"].text() or "DenyAll"
    names = {group["groupName"].text() for group in cluster.workers}
    for group in cluster.workers:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", group["groupName"].text()):
            yield group["groupName"].error("becomes part of a NetworkPolicy's name", "Use a-z, 0-9 and - only.")
    for rules in (policy["head"], policy["worker"], *policy["workerGroups"].items()):
        if "groupName" in rules and rules["groupName"].value not in names:
            yield rules["groupName"].error("there is no such worker group", f"Known: {', '.join(sorted(names))}.")
        for direction, free in (("ingressRules", "DenyAllEgress"), ("egressRules", "DenyAllIngress")):
            if rules[direction] and mode == free:
                yield rules[direction].error(f"mode is {mode}, which leaves it open", "Leave it out, or set DenyAll.")
    for rules in (policy["head"], policy["worker"]):
        if mode != "DenyAllIngress" and not rules["egressRules"]:
            yield rules["egressRules"].warning("no way out, not even to the DNS", "Allow port 53, UDP and TCP.")


def gates(cluster: Cluster) -> Problems:
    for name, gate in GATED.items():
        if name in cluster.spec:
            yield cluster.spec[name].warning(
                f"KubeRay refuses it unless started with the feature gate {gate}", "Turn the gate on, or leave it out."
            )


def ownership(cluster: Cluster) -> Problems:
    manager = cluster.spec["managedBy"]
    if manager.value is not None and manager.value not in MANAGERS:
        yield manager.error(f"{manager.value!r} is not allowed", f"Known: {', '.join(MANAGERS)}.")
    if cluster.owner != "RayCluster" and cluster.spec / "upgradeStrategy.type":
        yield (cluster.spec / "upgradeStrategy.type").error(
            f"is not for the cluster of a {cluster.owner}", "Leave it out."
        )


RULES = (authentication, head_fault_tolerance, network, gates, ownership)
