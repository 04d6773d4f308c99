"""Where an artifact comes from: its ancestors, down to the documents and their licences."""

from __future__ import annotations

from typing import Any

import msgspec

from cluster.artifact import Artifact, Code


def lineage(artifact: Artifact) -> dict[str, Any]:
    """The artifact and all its ancestors as a nested mapping: who built it from what, with which code and packages."""
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
        "parents": {name: lineage(artifact.parent(name)) for name in record.parents},
    }


def render(tree: dict[str, Any]) -> str:
    """The lineage as an indented text for people: one artifact a paragraph, what is not a default is not hidden."""
    lines: list[str] = []
    seen: set[str] = set()

    def add(node: dict[str, Any], role: str, indent: str) -> None:
        lines.append(f"{indent}{role}{node['ref']}")
        if node["ref"] in seen:
            lines[-1] += "  (see above)"
            return
        seen.add(node["ref"])
        inner = indent + "    "
        lines.append(f"{inner}spec     {_flat(node['spec'])}")
        if node["metrics"]:
            lines.append(f"{inner}metrics  {_flat(node['metrics'])}")
        code = Code(**node["code"])
        lines.append(f"{inner}code     {code}, {node['built_at']}, {node['duration_seconds']:.1f} s")
        if node["user_code"]:
            own = Code(**node["user_code"])
            lines.append(f"{inner}script   {own}{own.repository and f' of {own.repository}'}")
        for name, parent in node["parents"].items():
            add(parent, f"{name}: ", inner)

    add(tree, "", "")
    lines.append(f"packages  {_flat(tree['versions'])}")
    return "\n".join(lines)


def _flat(values: dict[str, Any]) -> str:
    return "  ".join(f"{key}={_brief(value)}" for key, value in values.items())


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_brief(v)}" for k, v in value.items()) + "}"
    return repr(value) if isinstance(value, str) and (not value or " " in value) else str(value)
