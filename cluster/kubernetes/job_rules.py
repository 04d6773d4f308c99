"""What KubeRay 1.7 and Kueue ask of a RayJob beyond its schema: how it is submitted, how it ends, how it is retried."""

from __future__ import annotations

from itertools import pairwise

import yaml

from cluster.core.specs.kubernetes_names import is_schedule
from cluster.kubernetes.findings import At, Problems
from cluster.kubernetes.views import Job

DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
ELASTIC_ANNOTATION = "kueue.x-k8s.io/elastic-job"
SELECTOR_KEY = "ray.io/cluster"


def where(job: Job) -> Problems:
    """On which cluster."""
    selector = job.spec["clusterSelector"]
    if job.cluster.value is None and not selector:
        yield job.cluster.error("is missing", "Give rayClusterSpec, or clusterSelector for a cluster that is there.")
    if not selector:
        return
    if not selector[SELECTOR_KEY]:
        yield selector[SELECTOR_KEY].error("is missing", "Name the RayCluster.")
    if job.mode == "SidecarMode":
        yield selector.error("does not go with SidecarMode", "Use K8sJobMode.")
    if (job.spec["backoffLimit"].number() or 0) > 0:
        yield job.spec["backoffLimit"].error("a retry builds a new cluster, clusterSelector names one", "Set it to 0.")
    if job.spec["suspend"].value is True:
        yield job.spec["suspend"].error("does not go with clusterSelector", "Leave it out.")


def schedule(cron: At) -> Problems:
    """What a RayCronJob asks of its schedule, and of its operator."""
    if not is_schedule(cron["schedule"].text()):
        yield cron["schedule"].error(f"{cron['schedule'].value!r} is not one of cron", "Five fields: 0 3 * * *.")
    yield cron.warning(
        "KubeRay passes RayCronJobs over unless started with the feature gate RayCronJob", "Turn the gate on."
    )


def submission(job: Job) -> Problems:
    if job.mode == "SidecarMode":
        for name in ("submitterPodTemplate", "submitterConfig"):
            if job.spec[name].value is not None:
                yield job.spec[name].error("does not go with SidecarMode", "Leave it out, or use K8sJobMode.")
        policy = job.cluster / "headGroupSpec.template.spec.restartPolicy"
        if policy.value not in (None, "", "Never"):
            yield policy.error(f"{policy.value} does not go with SidecarMode", "Write Never, or leave it out.")
    if job.mode == "InteractiveMode":
        if (job.spec["backoffLimit"].number() or 0) > 0:
            yield job.spec["backoffLimit"].error("does not go with InteractiveMode", "Leave it out.")
    elif not job.spec["entrypoint"] and not (job.spec / "submitterPodTemplate.spec.containers")[0]["command"]:
        yield job.spec["entrypoint"].warning(
            "is missing: there is nothing to submit", "Give the command of the driver."
        )
    runtime = job.spec["runtimeEnvYAML"]
    try:
        found = yaml.safe_load(runtime.text() or "{}")
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        yield runtime.error("is not a YAML mapping", "Give a runtime environment as YAML text.")


def ending(job: Job) -> Problems:
    keep, strategy = job.spec["ttlSecondsAfterFinished"], job.spec["deletionStrategy"]
    rules = strategy["deletionRules"]
    if (keep.number() or 0) < 0:
        yield keep.error(f"is {keep.value}", "Give 0 or more.")
    if (keep.number() or 0) > 0 and not job.shuts_down:
        yield keep.error("goes with shutdownAfterJobFinishes: true only", "Set that, or leave this out.")
    if job.spec["suspend"].value is True and not job.shuts_down:
        yield job.spec["suspend"].error("needs shutdownAfterJobFinishes: true", "Set that.")
    if strategy.value is None:
        if not job.shuts_down and not job.spec["clusterSelector"]:
            yield job.spec["shutdownAfterJobFinishes"].warning(
                "is not true: the cluster stays when the job has ended", "Set it, or give a deletionStrategy."
            )
        return
    legacy = [strategy[name] for name in ("onSuccess", "onFailure")]
    if rules:
        if job.shuts_down:
            yield rules.error("does not go with shutdownAfterJobFinishes", "Keep one of them.")
        if any(place.value is not None for place in legacy):
            yield rules.error("does not go with onSuccess and onFailure", "Keep one of them.")
        yield from _deletion_rules(job, rules)
        return
    if all(place.value is None for place in legacy):
        yield rules.error("is missing or empty", "Give deletionRules, or both onSuccess and onFailure.")
        return
    for place in legacy:
        if place.value is None:
            yield place.error("is missing", "Give both onSuccess and onFailure, or deletionRules.")
            continue
        policy = place["policy"]
        yield from _deletion(job, policy)
        if policy.value is None:
            yield policy.error("is missing", "Name the policy.")
        elif policy.value == "DeleteNone" and job.shuts_down:
            yield policy.error("does not go with shutdownAfterJobFinishes", "Keep one of them.")


def _deletion(job: Job, policy: At) -> Problems:
    if policy.value == "DeleteWorkers" and job.autoscaling:
        yield policy.error("DeleteWorkers does not go with the autoscaler", "Use DeleteCluster.")
    if policy.value in ("DeleteWorkers", "DeleteCluster") and job.spec["clusterSelector"]:
        yield policy.error("does not go with clusterSelector", "The cluster is not the job's to delete.")


def _deletion_rules(job: Job, rules: At) -> Problems:
    """Each condition at most once a policy, and what holds the others goes last."""
    after: dict[tuple[str, str], dict[str, At]] = {}
    for rule in rules.items():
        yield from _deletion(job, rule["policy"])
        condition, policy = rule["condition"], rule["policy"].text()
        named = [name for name in ("jobStatus", "jobDeploymentStatus") if name in condition]
        if len(named) != 1:
            yield condition.error("needs jobStatus or jobDeploymentStatus, one of them", "Give exactly one.")
            continue
        seconds = condition["ttlSeconds"]
        if (seconds.number() or 0) < 0:
            yield seconds.error(f"is {seconds.value}", "Give 0 or more.")
        same = after.setdefault((named[0], condition[named[0]].text()), {})
        if policy in same:
            yield rule["policy"].error("is there twice for this condition", "Keep one of them.")
        same[policy] = seconds
    for policies in after.values():
        given = [(name, policies[name]) for name in DELETION_ORDER if name in policies]
        for (first, early), (second, late) in pairwise(given):
            if (late.number() or 0) < (early.number() or 0):
                yield late.error(
                    f"{second} after {late.number() or 0} s would come before {first} after {early.number()} s",
                    "Workers go first, then the cluster, then the job itself.",
                )


def limits(job: Job) -> Problems:
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if (seconds := job.spec[name].number()) is not None and seconds <= 0:
            yield job.spec[name].error(f"is {seconds}", "Give 1 or more.")
    retries = job.spec["backoffLimit"].number() or 0
    if retries < 0:
        yield job.spec["backoffLimit"].error(f"is {retries}", "Give 0 or more.")
    if retries > 0:
        for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
            if name not in job.spec:
                yield job.spec[name].warning(
                    "is missing, and every retry builds a whole new cluster", "Bound the time that it may take."
                )


def kueue(job: Job) -> Problems:
    if not (job.metadata["labels"])[QUEUE_LABEL]:
        return
    if not job.shuts_down:
        yield job.spec["shutdownAfterJobFinishes"].error("Kueue needs it to be true", "Set it.")
    if job.spec["clusterSelector"]:
        yield job.spec["clusterSelector"].error("does not go with Kueue", "Give rayClusterSpec.")
    yield from kueue_cluster(job.cluster, job.metadata)


def kueue_cluster(cluster: At, metadata: At) -> Problems:
    """What Kueue asks of the cluster itself, in a RayJob or alone."""
    if not (metadata["labels"])[QUEUE_LABEL]:
        return
    elastic = (metadata["annotations"])[ELASTIC_ANNOTATION].value == "true"
    if cluster["enableInTreeAutoscaling"].value is True and not elastic:
        yield cluster["enableInTreeAutoscaling"].error(
            "goes with Kueue's workload slices only", f"Leave it out, or annotate {ELASTIC_ANNOTATION}: 'true'."
        )
    for group in cluster["workerGroupSpecs"].items():
        if group["groupName"].value == "head":
            yield group["groupName"].error("Kueue calls the head's pods so", "Give the group another name.")


RULES = (where, submission, ending, limits, kueue)


def check(job: Job) -> Problems:
    for rule in RULES:
        yield from rule(job)
