"""Planted mistakes: each a small change of a manifest that is valid, each caught at its field, with nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from cluster.kubernetes.schema import Schema
from pipelines.specs import InfraSpec
from tests.infra.orders import DELETED, Body, changed, find, order, problems, rendered

CLUSTER, JOB, SERVICE = "RayCluster", "RayJob", "RayService"
VALID = rendered(order(InfraSpec(queue="research", redis_address="redis:6379", redis_secret="redis")))

HEAD = "spec.headGroupSpec"
WORKERS = "spec.workerGroupSpecs.0"
POD = "template.spec"
JOB_CLUSTER = "spec.rayClusterSpec"
JOB_HEAD = f"{JOB_CLUSTER}.headGroupSpec"
JOB_WORKERS = f"{JOB_CLUSTER}.workerGroupSpecs.0"
SERVICE_HEAD = "spec.rayClusterConfig.headGroupSpec"


@dataclass(frozen=True)
class Mistake:
    """`changes` to the valid manifest of a kind; the field that is named, and a word of what is said of it."""

    kind: str
    changes: dict[str, Any]
    field: str
    word: str


def after(policy: str, seconds: int) -> Body:
    return {"policy": policy, "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": seconds}}


def deletion(*rules: Body) -> dict[str, Any]:
    """Deletion rules instead of a plain shutdown; Kueue would not have it."""
    return {
        "spec.deletionStrategy": {"deletionRules": list(rules)},
        "spec.shutdownAfterJobFinishes": False,
        "spec.ttlSecondsAfterFinished": 0,
        "metadata.labels": {},
    }


def upgrade(**options: Any) -> dict[str, Any]:
    return {
        "spec.rayClusterConfig.enableInTreeAutoscaling": True,
        "spec.rayClusterConfig.autoscalerOptions": {"version": "v2"},
        "spec.upgradeStrategy": {
            "type": "NewClusterWithIncrementalUpgrade",
            "clusterUpgradeOptions": {
                "gatewayClassName": "istio",
                "stepSizePercent": 10,
                "intervalSeconds": 30,
                "maxSurgePercent": 100,
                **options,
            },
        },
    }


def variable(name: str, value: str) -> Body:
    return {"name": name, "value": value}


def serve(application: str) -> str:
    return f"applications:\n- {application}\n"


# What the schema says. Named after what is wrong.
BY_SCHEMA = {
    "unknown field": Mistake(CLUSTER, {"spec.headGroupSpecs": {}}, "spec.headGroupSpecs", "'headGroupSpec'"),
    "unknown field of a pod": Mistake(
        JOB,
        {f"{JOB_WORKERS}.{POD}.containers.0.resource": {}},
        "spec.rayClusterSpec.workerGroupSpecs[0].template.spec.containers[0].resource",
        "'resources'",
    ),
    "unknown metadata": Mistake(CLUSTER, {"metadata.label": {}}, "metadata.label", "'labels'"),
    "text for a number": Mistake(CLUSTER, {f"{WORKERS}.replicas": "1"}, "spec.workerGroupSpecs[0].replicas", "integer"),
    "a list for a mapping": Mistake(SERVICE, {"spec.upgradeStrategy": []}, "spec.upgradeStrategy", "object"),
    "missing group name": Mistake(
        CLUSTER, {f"{WORKERS}.groupName": DELETED}, "spec.workerGroupSpecs[0].groupName", "missing"
    ),
    "unknown mode": Mistake(CLUSTER, {"spec.authOptions.mode": "tokens"}, "spec.authOptions.mode", "'token'"),
    "no quantity": Mistake(
        CLUSTER,
        {f"{HEAD}.{POD}.containers.0.resources.limits.cpu": "two"},
        "spec.headGroupSpec.template.spec.containers[0].resources.limits.cpu",
        "form",
    ),
    "number too large": Mistake(JOB, {"spec.backoffLimit": 2**31}, "spec.backoffLimit", "more than"),
    "number too small": Mistake(JOB, {"spec.preRunningDeadlineSeconds": 0}, "spec.preRunningDeadlineSeconds", "1"),
    "no deletion rules": Mistake(JOB, deletion(), "spec.deletionStrategy.deletionRules", "1"),
    "two containers of one name": Mistake(
        CLUSTER,
        {f"{HEAD}.{POD}.containers.1": {"name": "ray-head", "image": "x"}},
        "spec.headGroupSpec.template.spec.containers[1]",
        "twice",
    ),
    "a version that there is not": Mistake(CLUSTER, {"apiVersion": "ray.io/v2"}, "apiVersion", "ray.io/v1"),
    "unknown port field": Mistake("NetworkPolicy", {"spec.podSelectors": {}}, "spec.podSelectors", "'podSelector'"),
    "a text for labels": Mistake(
        "PersistentVolumeClaim", {"spec.accessModes": "ReadWriteMany"}, "spec.accessModes", "array"
    ),
}

# What only KubeRay, Kueue and good sense say; caught without the CRDs.
BY_RULE = {
    "cluster's name too long": Mistake(CLUSTER, {"metadata.name": "c" * 54}, "metadata.name", "53"),
    "job's name too long": Mistake(JOB, {"metadata.name": "j" * 48}, "metadata.name", "47"),
    "service's name too long": Mistake(SERVICE, {"metadata.name": "s" * 48}, "metadata.name", "47"),
    "name with capitals": Mistake(CLUSTER, {"metadata.name": "Research"}, "metadata.name", "cannot be a name"),
    "no name": Mistake(CLUSTER, {"metadata.name": DELETED}, "metadata.name", "missing"),
    "label with a space": Mistake(CLUSTER, {"metadata.labels.team": "deep blue"}, "metadata.labels.team", "value"),
    "parameter that is no text": Mistake(
        CLUSTER, {f"{HEAD}.rayStartParams.num-cpus": 0}, "spec.headGroupSpec.rayStartParams.num-cpus", "quotes"
    ),
    "labels as parameter": Mistake(
        CLUSTER, {f"{WORKERS}.rayStartParams.labels": "a=b"}, "spec.workerGroupSpecs[0].rayStartParams.labels", "labels"
    ),
    "token without a version": Mistake(CLUSTER, {"spec.rayVersion": DELETED}, "spec.rayVersion", "missing"),
    "token with an old version": Mistake(
        JOB, {f"{JOB_CLUSTER}.rayVersion": "2.51.0"}, "spec.rayClusterSpec.rayVersion", "2.52"
    ),
    "service accounts for a job": Mistake(
        JOB,
        {f"{JOB_CLUSTER}.authOptions.enableK8sTokenAuth": True},
        "spec.rayClusterSpec.authOptions.enableK8sTokenAuth",
        "RayJob",
    ),
    "restart with autoscaler v2": Mistake(
        CLUSTER,
        {f"{WORKERS}.{POD}.restartPolicy": "Always"},
        "spec.workerGroupSpecs[0].template.spec.restartPolicy",
        "v2",
    ),
    "autoscaler's version said twice": Mistake(
        CLUSTER,
        {f"{HEAD}.{POD}.containers.0.env.0": variable("RAY_enable_autoscaler_v2", "1")},
        "spec.headGroupSpec.template.spec.containers[0].env[0].name",
        "already",
    ),
    "idle time without autoscaler v2": Mistake(
        JOB,
        {f"{JOB_WORKERS}.idleTimeoutSeconds": 60},
        "spec.rayClusterSpec.workerGroupSpecs[0].idleTimeoutSeconds",
        "v2",
    ),
    "more replicas at least than at most": Mistake(
        CLUSTER, {f"{WORKERS}.minReplicas": 3}, "spec.workerGroupSpecs[0].minReplicas", "maxReplicas"
    ),
    "resources in two places": Mistake(
        CLUSTER,
        {f"{WORKERS}.resources": {"CPU": "4"}, f"{WORKERS}.rayStartParams": {"num-cpus": "4"}},
        "spec.workerGroupSpecs[0].rayStartParams.num-cpus",
        "resources",
    ),
    "GPUs asked for and not limited": Mistake(
        CLUSTER,
        {f"{WORKERS}.{POD}.containers.0.resources.requests.nvidia|com/gpu": "1"},
        "spec.workerGroupSpecs[0].template.spec.containers[0].resources.requests['nvidia.com/gpu']",
        "limit",
    ),
    "Redis behind KubeRay's back": Mistake(
        CLUSTER,
        {f"{HEAD}.{POD}.containers.0.env.0": variable("RAY_REDIS_ADDRESS", "redis:6379")},
        "spec.headGroupSpec.template.spec.containers[0].env[0].name",
        "gcsFaultToleranceOptions",
    ),
    "Redis's password in the environment": Mistake(
        SERVICE,
        {f"{SERVICE_HEAD}.{POD}.containers.0.env.0": {"name": "REDIS_PASSWORD", "valueFrom": {}}},
        "spec.rayClusterConfig.headGroupSpec.template.spec.containers[0].env[0].name",
        "redisPassword",
    ),
    "Redis's password in plain sight": Mistake(
        SERVICE,
        {"spec.rayClusterConfig.gcsFaultToleranceOptions.redisPassword": {"value": "1234"}},
        "spec.rayClusterConfig.gcsFaultToleranceOptions.redisPassword.value",
        "plain sight",
    ),
    "key in plain sight": Mistake(
        CLUSTER,
        {f"{WORKERS}.{POD}.containers.0.env.0": variable("AWS_SECRET_ACCESS_KEY", "abc")},
        "spec.workerGroupSpecs[0].template.spec.containers[0].env[0].value",
        "secretKeyRef",
    ),
    "token in the job's environment": Mistake(
        JOB,
        {"spec.runtimeEnvYAML": "env_vars: {HF_TOKEN: hf_abc}"},
        "spec.runtimeEnvYAML.env_vars.HF_TOKEN",
        "dashboard",
    ),
    "environment that is no YAML": Mistake(JOB, {"spec.runtimeEnvYAML": "a: [b"}, "spec.runtimeEnvYAML", "YAML"),
    "another manager": Mistake(CLUSTER, {"spec.managedBy": "me"}, "spec.managedBy", "ray.io/kuberay-operator"),
    "no cluster": Mistake(JOB, {"spec.rayClusterSpec": DELETED}, "spec.rayClusterSpec", "clusterSelector"),
    "sidecar with a submitter of its own": Mistake(
        JOB, {"spec.submissionMode": "SidecarMode"}, "spec.submitterPodTemplate", "SidecarMode"
    ),
    "sidecar with a head that restarts": Mistake(
        JOB,
        {
            "spec.submissionMode": "SidecarMode",
            "spec.submitterPodTemplate": DELETED,
            f"{JOB_HEAD}.{POD}.restartPolicy": "OnFailure",
        },
        "spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy",
        "SidecarMode",
    ),
    "interactive with retries": Mistake(
        JOB, {"spec.submissionMode": "InteractiveMode"}, "spec.backoffLimit", "InteractiveMode"
    ),
    "time to keep what is not shut down": Mistake(
        JOB,
        {"spec.shutdownAfterJobFinishes": False, "spec.ttlSecondsAfterFinished": 60, "metadata.labels": {}},
        "spec.ttlSecondsAfterFinished",
        "shutdownAfterJobFinishes",
    ),
    "deadline of nothing": Mistake(JOB, {"spec.activeDeadlineSeconds": 0}, "spec.activeDeadlineSeconds", "1 or more"),
    "negative retries": Mistake(JOB, {"spec.backoffLimit": -1}, "spec.backoffLimit", "0 or more"),
    "rules and shutdown": Mistake(
        JOB,
        deletion(after("DeleteCluster", 60)) | {"spec.shutdownAfterJobFinishes": True},
        "spec.deletionStrategy.deletionRules",
        "shutdownAfterJobFinishes",
    ),
    "cluster before its workers": Mistake(
        JOB,
        deletion(after("DeleteCluster", 60), after("DeleteWorkers", 90)),
        "spec.deletionStrategy.deletionRules[0].condition.ttlSeconds",
        "Workers go first",
    ),
    "the same rule twice": Mistake(
        JOB,
        deletion(after("DeleteSelf", 60), after("DeleteSelf", 90)),
        "spec.deletionStrategy.deletionRules[1].policy",
        "twice",
    ),
    "workers deleted under an autoscaler": Mistake(
        JOB,
        deletion(after("DeleteWorkers", 60))
        | {f"{JOB_CLUSTER}.enableInTreeAutoscaling": True, f"{JOB_CLUSTER}.autoscalerOptions": {"version": "v2"}},
        "spec.deletionStrategy.deletionRules[0].policy",
        "autoscaler",
    ),
    "a condition of two": Mistake(
        JOB,
        deletion({"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}),
        "spec.deletionStrategy.deletionRules[0].condition",
        "exactly one",
    ),
    "half of a strategy": Mistake(
        JOB,
        deletion() | {"spec.deletionStrategy": {"onSuccess": {"policy": "DeleteSelf"}}},
        "spec.deletionStrategy.onFailure",
        "both",
    ),
    "upgrade of a job's cluster": Mistake(
        JOB,
        {f"{JOB_CLUSTER}.upgradeStrategy": {"type": "Recreate"}},
        "spec.rayClusterSpec.upgradeStrategy.type",
        "RayJob",
    ),
    "Kueue: group called head": Mistake(
        JOB, {f"{JOB_WORKERS}.groupName": "head"}, "spec.rayClusterSpec.workerGroupSpecs[0].groupName", "another name"
    ),
    "Kueue: autoscaler": Mistake(
        JOB,
        {f"{JOB_CLUSTER}.enableInTreeAutoscaling": True, f"{JOB_CLUSTER}.autoscalerOptions": {"version": "v2"}},
        "spec.rayClusterSpec.enableInTreeAutoscaling",
        "slices",
    ),
    "Kueue: no shutdown": Mistake(
        JOB,
        {"spec.shutdownAfterJobFinishes": False, "spec.ttlSecondsAfterFinished": 0},
        "spec.shutdownAfterJobFinishes",
        "Kueue",
    ),
    "network rule for a group that there is not": Mistake(
        CLUSTER,
        {"spec.networkPolicy": {"mode": "DenyAllIngress", "workerGroups": [{"groupName": "gpus"}]}},
        "spec.networkPolicy.workerGroups[0].groupName",
        "workers",
    ),
    "way out where all are open": Mistake(
        CLUSTER,
        {"spec.networkPolicy": {"mode": "DenyAllIngress", "head": {"egressRules": [{}]}}},
        "spec.networkPolicy.head.egressRules",
        "DenyAllIngress",
    ),
    "upgrade in steps without an autoscaler": Mistake(
        SERVICE,
        upgrade() | {"spec.rayClusterConfig.enableInTreeAutoscaling": False},
        "spec.rayClusterConfig.enableInTreeAutoscaling",
        "autoscaler",
    ),
    "upgrade in steps without a gateway": Mistake(
        SERVICE,
        upgrade(gatewayClassName=""),
        "spec.upgradeStrategy.clusterUpgradeOptions.gatewayClassName",
        "missing",
    ),
    "steps larger than the surge": Mistake(
        SERVICE,
        upgrade(maxSurgePercent=5),
        "spec.upgradeStrategy.clusterUpgradeOptions.stepSizePercent",
        "maxSurgePercent",
    ),
    "a name for KubeRay's service": Mistake(
        SERVICE,
        {f"{SERVICE_HEAD}.headService": {"metadata": {"name": "mine"}}},
        "spec.rayClusterConfig.headGroupSpec.headService.metadata.name",
        "KubeRay",
    ),
    "timeout that is no duration": Mistake(
        SERVICE,
        {"metadata.annotations.ray|io/initializing-timeout": "soon"},
        "metadata.annotations['ray.io/initializing-timeout']",
        "duration",
    ),
    "applications that are no YAML": Mistake(SERVICE, {"spec.serveConfigV2": "a: [b"}, "spec.serveConfigV2", "YAML"),
    "no applications": Mistake(SERVICE, {"spec.serveConfigV2": "a: b"}, "spec.serveConfigV2", "applications"),
    "nothing to import": Mistake(
        SERVICE, {"spec.serveConfigV2": serve("name: a")}, "spec.serveConfigV2.applications[0].import_path", "missing"
    ),
    "secret for a replica": Mistake(
        SERVICE,
        {"spec.serveConfigV2": serve("{import_path: 'a:b', runtime_env: {env_vars: {API_KEY: abc}}}")},
        "spec.serveConfigV2.applications[0].runtime_env.env_vars.API_KEY",
        "plain sight",
    ),
    "budget that cannot count": Mistake(
        "PodDisruptionBudget",
        {"spec.minAvailable": DELETED, "spec.maxUnavailable": 0},
        "spec.maxUnavailable",
        "minAvailable",
    ),
}


WARNINGS = {
    "no token": Mistake(CLUSTER, {"spec.authOptions": DELETED}, "spec.authOptions.mode", "CVE"),
    "no memory limit": Mistake(
        CLUSTER,
        {f"{HEAD}.{POD}.containers.0.resources.limits.memory": DELETED},
        "spec.headGroupSpec.template.spec.containers[0].resources.limits.memory",
        "missing",
    ),
    "CPUs that the pod has not": Mistake(
        CLUSTER,
        {f"{WORKERS}.rayStartParams.num-cpus": "64"},
        "spec.workerGroupSpecs[0].rayStartParams.num-cpus",
        "limits",
    ),
    "retries without end": Mistake(JOB, {"spec.activeDeadlineSeconds": DELETED}, "spec.activeDeadlineSeconds", "retry"),
    "nothing to submit": Mistake(JOB, {"spec.entrypoint": DELETED}, "spec.entrypoint", "submit"),
    "old autoscaler": Mistake(
        CLUSTER, {"spec.autoscalerOptions.version": "v1"}, "spec.autoscalerOptions.version", "v2"
    ),
    "a cluster that stays": Mistake(
        JOB,
        {
            "spec.shutdownAfterJobFinishes": False,
            "spec.ttlSecondsAfterFinished": 0,
            "metadata.labels": {},
        },
        "spec.shutdownAfterJobFinishes",
        "stays",
    ),
    "replicas beside the control plane": Mistake(
        SERVICE,
        {f"{SERVICE_HEAD}.rayStartParams": {}},
        "spec.rayClusterConfig.headGroupSpec.rayStartParams.num-cpus",
        "control plane",
    ),
    "a field behind a gate": Mistake(
        CLUSTER, {"spec.tlsOptions": {"enabled": True}}, "spec.tlsOptions", "RayClusterMTLS"
    ),
}


def test_the_manifests_are_valid_before_anything_is_planted() -> None:
    assert problems(*VALID) == []


def caught(mistake: Mistake, level: str, schemas: dict[tuple[str, str], Schema] | None = None) -> None:
    found = problems(changed(find(VALID, mistake.kind), mistake.changes), schemas=schemas)
    named = [problem for problem in found if problem.level == level]
    assert [problem.field for problem in named] == [mistake.field], found
    assert mistake.word in f"{named[0].message} {named[0].remedy}"
    assert named[0].remedy


@pytest.mark.parametrize("name", BY_SCHEMA)
def test_mistakes_that_the_schema_knows(name: str, schemas: dict[tuple[str, str], Schema]) -> None:
    caught(BY_SCHEMA[name], "error", schemas)


@pytest.mark.parametrize("name", BY_RULE)
def test_mistakes_that_only_the_operator_knows(name: str) -> None:
    caught(BY_RULE[name], "error")


@pytest.mark.parametrize("name", BY_RULE)
def test_schema_and_rules_do_not_say_it_twice(name: str, schemas: dict[tuple[str, str], Schema]) -> None:
    mistake = BY_RULE[name]
    found = problems(changed(find(VALID, mistake.kind), mistake.changes), schemas=schemas)
    assert [problem.field for problem in found if problem.level == "error"].count(mistake.field) == 1


@pytest.mark.parametrize("name", WARNINGS)
def test_what_hurts_later_is_a_warning(name: str) -> None:
    caught(WARNINGS[name], "warning")
