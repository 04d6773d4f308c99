"""Where an artifact comes from: its ancestors, down to the documents and their licences, each of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from cluster.core.storage.artifact import Artifact, Code


def _all_roles(artifact: Artifact) -> Iterable[str]:
    return artifact.record.parents


def ancestry(artifacts: Iterable[Artifact], roles: Callable[[Artifact], Iterable[str]] = _all_roles) -> list[Artifact]:
    """The artifacts and all their ancestors, each once, ancestors first; `roles`: which parents of one count."""
    given = list(artifacts)
    read = {artifact.record.target: artifact for artifact in given}
    todo, begun, done = [artifact.record.target for artifact in reversed(given)], set[str](), dict[str, Artifact]()
    while todo:
        artifact = read[todo[-1]]
        if todo[-1] in begun:  # met again: its ancestors are done
            done.setdefault(todo.pop(), artifact)
            continue
        begun.add(todo[-1])
        for role in sorted(roles(artifact), reverse=True):
            parent = artifact.record.parents[role]
            if parent.target not in read:
                read[parent.target] = artifact.parent(role)
            if parent.target not in begun:
                todo.append(parent.target)
    return list(done.values())


def lineage(artifact: Artifact) -> dict[str, Any]:
    """Who built the artifact from what, with which code and packages, and the same of its `ancestors`, by reference.

    Parents are named by their references, nearest ancestors come first.
    """
    *ancestors, itself = ancestry([artifact])
    return {**_node(itself), "ancestors": {each.record.ref: _node(each) for each in reversed(ancestors)}}


def _node(artifact: Artifact) -> dict[str, Any]:
    record = artifact.record
    return {
        "ref": record.ref,
        "fingerprint": record.fingerprint,
        "built_at": record.started_at,
        "duration_seconds": record.duration_seconds,
        "spec": record.spec,
        "metrics": record.metrics,
        "code": msgspec.to_builtins(record.code),
        "user_code": msgspec.to_builtins(record.user_code),
        "named": record.named,
        "versions": record.versions,
        "parents": {name: {"ref": p.ref, "fingerprint": p.fingerprint} for name, p in record.parents.items()},
    }


def render(found: dict[str, Any]) -> str:
    """The lineage as a text for people: one artifact a paragraph, what is not a default is not hidden."""
    paragraphs = [_paragraph(node) for node in (found, *found["ancestors"].values())]
    return "\n\n".join([*paragraphs, f"packages  {_flat(found['versions'])}"])


def _paragraph(node: dict[str, Any]) -> str:
    lines = [node["ref"], f"    spec     {_flat(node['spec'])}"]
    if node["metrics"]:
        lines.append(f"    metrics  {_flat(node['metrics'])}")
    lines.append(f"    code     {Code(**node['code'])}, {node['built_at']}, {node['duration_seconds']:.1f} s")
    if node["user_code"]:
        own = Code(**node["user_code"])
        lines.append(f"    script   {own}{own.repository and f' of {own.repository}'}")
    lines += [f"    {role}: {parent['ref']}" for role, parent in node["parents"].items()]
    return "\n".join(lines)


def _flat(values: dict[str, Any]) -> str:
    return "  ".join(f"{key}={_brief(value)}" for key, value in values.items())


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_brief(v)}" for k, v in value.items()) + "}"
    return repr(value) if isinstance(value, str) and (not value or " " in value) else str(value)
