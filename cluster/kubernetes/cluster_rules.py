"""What KubeRay 1.7 and Kueue ask of a RayCluster's spec beyond its schema, wherever it stands: alone, in a RayJob, in a
RayService. Each rule is one function; those that only warn name what hurts later.
"""

from __future__ import annotations

from cluster.kubernetes import control_rules
from cluster.kubernetes.findings import Problems
from cluster.kubernetes.pods import GPU
from cluster.kubernetes.views import Cluster, container, environment, ray_version

RESOURCE_PARAMETERS = ("num-cpus", "num-gpus", "memory", "resources")


def containers(cluster: Cluster) -> Problems:
    for group in cluster.groups:
        here = group / "template.spec.containers"
        if group.value is not None and not here:
            yield here.error("no container", "Add the one that runs Ray.")


def start_parameters(cluster: Cluster) -> Problems:
    for group in cluster.groups:
        parameters = group["rayStartParams"]
        for name, value in (parameters.value or {}).items() if isinstance(parameters.value, dict) else ():
            if not isinstance(value, str):
                yield parameters[name].error(f"{value!r} is not text", f"Put it in quotes: '{value}'.")
        if "labels" in parameters:
            yield parameters["labels"].error("KubeRay takes labels elsewhere", "Move them to the group's `labels`.")
        limits = container(group) / "resources.limits"
        for name in RESOURCE_PARAMETERS:
            if name not in parameters:
                continue
            here = parameters[name]
            if group["resources"]:
                yield here.error("the group has `resources` as well", "Keep one of them.")
            elif limits and name != "resources" and here.value != "0":
                yield here.warning(
                    "overrides what the container's limits say, and Ray then counts on what the pod does not have",
                    "Leave it out: KubeRay takes it from the limits.",
                )


def replicas(cluster: Cluster) -> Problems:
    for group in cluster.workers:
        least, most, now = (group[name].number() for name in ("minReplicas", "maxReplicas", "replicas"))
        for name, number in (("minReplicas", least), ("maxReplicas", most), ("replicas", now)):
            if number is not None and number < 0:
                yield group[name].error(f"is {number}", "Give 0 or more.")
        if least is not None and most is not None and least > most:
            yield group["minReplicas"].error(f"{least} is more than maxReplicas ({most})", "Lower it.")
        elif now is not None and not (least or 0) <= now <= (now if most is None else most):
            yield group["replicas"].warning("is not between minReplicas and maxReplicas", "KubeRay moves it there.")


def group_names(cluster: Cluster) -> Problems:
    seen = set()
    for group in cluster.workers:
        name = group["groupName"].text()
        if name in seen:
            yield group["groupName"].warning(f"{name!r} is there twice", "Give each group a name of its own.")
        seen.add(name)


def autoscaler(cluster: Cluster) -> Problems:
    options = cluster.spec["autoscalerOptions"]
    variable = environment(cluster.head).get("RAY_enable_autoscaler_v2")
    if (seconds := options["idleTimeoutSeconds"].number()) is not None and seconds < 0:
        yield options["idleTimeoutSeconds"].error(f"is {seconds}", "Give 0 or more.")
    for entry in options["env"].items():
        if entry["name"].value == "KUBERAY_GEN_AUTOSCALER_START_CMD":
            yield entry["name"].error("KubeRay sets it", "Leave it out.")
    for group in cluster.workers:
        seconds = group["idleTimeoutSeconds"].number()
        if seconds is not None and seconds < 0:
            yield group["idleTimeoutSeconds"].error(f"is {seconds}", "Give 0 or more.")
        elif seconds is not None and not cluster.v2:
            yield group["idleTimeoutSeconds"].error(
                "works with autoscaler v2 only", "Set autoscalerOptions.version: v2."
            )
        if group["priority"].number():
            if not cluster.v2:
                yield group["priority"].error("works with autoscaler v2 only", "Set autoscalerOptions.version: v2.")
            if ray_version(cluster) < (2, 56):
                yield group["priority"].error("needs Ray 2.56", "State rayVersion, 2.56.0 or later.")
    if not cluster.autoscaling:
        if variable is not None and variable["value"].value in ("1", "true"):
            yield variable["name"].error("the autoscaler is off", "Set enableInTreeAutoscaling: true.")
        if options.value is not None:
            yield options.warning("the autoscaler is off", "Set enableInTreeAutoscaling: true.")
        return
    if cluster.version and variable is not None:
        yield variable["name"].error("autoscalerOptions.version says it already", "Leave the variable out.")
    if cluster.version != "v2":
        yield options["version"].warning("is not v2, the one that Ray develops", "Set autoscalerOptions.version: v2.")
    for group in cluster.groups:
        policy = group / "template.spec.restartPolicy"
        if cluster.version == "v2" and policy.value not in (None, "", "Never"):
            yield policy.error(f"{policy.value} does not go with autoscaler v2", "Write Never, or leave it out.")
        if group["suspend"].value is True:
            yield group["suspend"].error("a group cannot be suspended with the autoscaler on", "Leave it out.")


def resources(cluster: Cluster) -> Problems:
    for group in cluster.groups:
        here = container(group)["resources"]
        if not container(group) or group["resources"]:
            continue
        for side in ("limits", "requests"):
            for name in ("cpu", "memory"):
                if name not in here[side]:
                    yield here[side][name].warning(
                        "is missing", "State it: Ray schedules by it, Kubernetes evicts by it."
                    )
        if GPU in here["requests"] and here["requests"][GPU].value != here["limits"][GPU].value:
            yield here["requests"][GPU].error("must equal the limit", "GPUs cannot be overcommitted.")


RULES = (containers, start_parameters, replicas, group_names, autoscaler, resources, *control_rules.RULES)


def check(cluster: Cluster) -> Problems:
    for rule in RULES:
        yield from rule(cluster)
