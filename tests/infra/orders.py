"""What to render, and helpers to find one's way in manifests."""

from __future__ import annotations

import copy
from typing import Any

from cluster.kubernetes.documents import Document
from cluster.kubernetes.findings import Problem
from cluster.kubernetes.objects import Order
from cluster.kubernetes.schema import Schema
from cluster.kubernetes.tree import manifests
from cluster.kubernetes.validate import validate
from pipelines.specs import EndpointSpec, InfraSpec, ScalingSpec

Body = dict[str, Any]
DELETED = object()


def order(
    infra: InfraSpec | None = None, scaling: ScalingSpec | None = None, endpoint: EndpointSpec | None = None
) -> Order:
    return Order(
        infra=infra or InfraSpec(),
        scaling=scaling or ScalingSpec(),
        endpoint=endpoint or EndpointSpec(model="model/pretrain"),
        run={},
        run_name="pretrain",
    )


def rendered(wanted: Order) -> list[Body]:
    return [body for bodies in manifests(wanted).values() for body in bodies]


def find(bodies: list[Body], kind: str) -> Body:
    return next(body for body in bodies if body["kind"] == kind)


def problems(*bodies: Body, schemas: dict[tuple[str, str], Schema] | None = None) -> list[Problem]:
    documents = [Document("test.yaml", index, body) for index, body in enumerate(bodies)]
    return [finding.problem for finding in validate(documents, schemas or {}).findings]


def changed(body: Body, changes: dict[str, Any]) -> Body:
    """A copy with values put at places such as `spec.workerGroupSpecs.0.replicas` (`|` for a dot within a key)."""
    body = copy.deepcopy(body)
    for place, value in changes.items():
        *path, last = (step.replace("|", ".") for step in place.split("."))
        here: Any = body
        for step in path:
            here = here[int(step)] if isinstance(here, list) else here.setdefault(step, {})
        if value is DELETED:
            del here[int(last) if isinstance(here, list) else last]
        elif isinstance(here, list) and int(last) == len(here):
            here.append(value)
        else:
            here[int(last) if isinstance(here, list) else last] = value
    return body
