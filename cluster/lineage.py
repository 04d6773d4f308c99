"""Where an artifact comes from: its ancestors, down to the documents and their licences."""

from __future__ import annotations

from typing import Any

from cluster.artifact import Artifact


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
        "code": {"commit": record.code.commit, "dirty": record.code.dirty},
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
        commit = node["code"]["commit"][:12] or "no commit"
        dirty = f" + changes {node['code']['dirty']}" if node["code"]["dirty"] else ""
        lines.append(f"{inner}code     {commit}{dirty}, {node['built_at']}, {node['duration_seconds']:.1f} s")
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
