"""Checks manifests without a cluster: schemas first, then the rules that KubeRay and Kueue keep in their code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.core.errors import NotReadyError
from cluster.kubernetes import builtin, cluster_rules, general_rules, job_rules, service_rules
from cluster.kubernetes.documents import Document
from cluster.kubernetes.findings import At, Finding, Problem, Problems
from cluster.kubernetes.metadata import check as check_metadata
from cluster.kubernetes.schema import Schema
from cluster.kubernetes.schema import check as check_schema
from cluster.kubernetes.views import Cluster, Job

RAY_GROUP = "ray.io/"
GET_CRDS = (
    "get them from a cluster (`kubectl get crd rayclusters.ray.io rayjobs.ray.io rayservices.ray.io -o yaml`) "
    "or from KubeRay's release (helm-chart/kuberay-operator/crds), and give them with --crds"
)


@dataclass
class Report:
    """What was found, and what was not looked at."""

    documents: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(finding.problem.level == "error" for finding in self.findings)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def validate(documents: Iterable[Document], schemas: dict[tuple[str, str], Schema]) -> Report:
    """Every document against its schema (`schemas`: those of CRDs, by apiVersion and kind) and all rules."""
    report = Report()
    for document in documents:
        report.documents += 1
        found: dict[str, Problem] = {}
        for problem in [*refused(document, schemas, report), *rules(document)]:
            known = found.get(problem.field)  # a rule may say again what the schema says
            if known is None or (known.level, problem.level) == ("warning", "error"):
                found[problem.field] = problem
        report.findings += [Finding(document.file, document.name, problem) for problem in found.values()]
    return report


def refused(document: Document, schemas: dict[tuple[str, str], Schema], report: Report) -> Problems:
    """What the API server itself would refuse: shapes, values, names and labels."""
    body = document.body
    version = body.get("apiVersion")
    for name in ("apiVersion", "kind"):
        if not isinstance(body.get(name), str):
            yield Problem((name,), "is missing", "State it: this is no manifest without.")
            return
    yield from check_metadata(document.kind, At(body)["metadata"])
    if schema := schemas.get((str(version), document.kind)):
        yield from check_schema(schema, body)
    elif str(version).startswith(RAY_GROUP):
        if schemas:
            yield Problem(("apiVersion",), f"no CRD given is of {version} {document.kind}", "Use ray.io/v1.")
        else:
            report.note(f"KubeRay's schemas were not checked: {GET_CRDS}.")
    elif _is_builtin(str(version)):
        try:
            yield from builtin.check(body)
        except NotReadyError as error:
            report.note(str(error))
    else:
        report.note(f"{version} {document.kind} was not checked: there is no schema of it here.")


def _is_builtin(version: str) -> bool:
    group = version.rpartition("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and not group.endswith("x-k8s.io"))


def rules(document: Document) -> Problems:
    """The rules alone."""
    body = At(document.body)
    spec, metadata = body["spec"], body["metadata"]
    yield from general_rules.names(document.kind, metadata)
    yield from general_rules.labels(body)
    yield from general_rules.secrets(body)
    if document.kind == "PodDisruptionBudget":
        yield from general_rules.budget(body)
    if not str(document.body.get("apiVersion")).startswith(RAY_GROUP):
        return
    annotations = metadata["annotations"]
    if document.kind == "RayCluster":
        yield from cluster_rules.check(Cluster(spec, "RayCluster", annotations))
        yield from job_rules.kueue_cluster(spec, metadata)
    elif document.kind == "RayJob":
        yield from _job(Job(spec, metadata), annotations)
    elif document.kind == "RayCronJob":
        yield from job_rules.schedule(spec)
        yield from _job(Job(spec["jobTemplate"], metadata), annotations)
    elif document.kind == "RayService":
        yield from service_rules.check(spec, metadata)
        yield from cluster_rules.check(Cluster(spec["rayClusterConfig"], "RayService", annotations))


def _job(job: Job, annotations: At) -> Problems:
    yield from job_rules.check(job)
    if job.cluster.value is not None:
        yield from cluster_rules.check(Cluster(job.cluster, "RayJob", annotations))
