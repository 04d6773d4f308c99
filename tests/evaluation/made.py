"""Artifacts out of given files, as if a stage had made them."""

from __future__ import annotations

from collections.abc import Mapping

from cluster import spec as specs
from cluster.artifact import Artifact, Code, Parent, Record
from cluster.spec import Spec
from cluster.store import Store


def make(store: Store, spec: Spec, parents: Mapping[str, Artifact], files: Mapping[str, bytes], name: str) -> Artifact:
    """An artifact with these files."""
    fingerprint = specs.fingerprint(spec, {key: parent.fingerprint for key, parent in parents.items()})
    staging = store.staging(spec.kind, name, fingerprint)
    for file, data in files.items():
        staging.write_bytes(file, data)
    record = Record(
        kind=spec.kind,
        name=name,
        fingerprint=fingerprint,
        revision=spec.revision,
        spec=specs.fields(spec),
        parents={key: Parent(a.kind, a.name, a.fingerprint) for key, a in parents.items()},
        scaling={},
        code=Code("", ""),
        versions={},
        started_at="2026-01-01T00:00:00+00:00",
        duration_seconds=0.0,
        metrics={},
        files={},
    )
    return store.commit(record, staging)
