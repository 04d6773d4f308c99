"""Where a model comes from: the models that it was made of, and what they learned from.

An artifact's parents hold more than that: what a stage only compared with or measured on is no source of a model.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from cluster.core.lineage import ancestry
from cluster.core.specs.spec import Spec
from cluster.core.storage.artifact import Artifact
from pipelines.specs import SPECS
from pipelines.stages import licenses
from pipelines.stages.tuning.conversations import read_lines

MODEL, EXPORTED = "model", "model"  # the role of a model among the inputs, and the kind of an exported one
CONVERSATIONS = "conversations"
DATA = {
    "corpus": "documents",
    CONVERSATIONS: "conversations",
    "synthetic": "conversations",
    "preferences": "pairs",
    "tasks": "tasks",
}

SHOWN_SOURCES = 20


@dataclass(frozen=True)
class Source:
    """Something that a model learned from: what it holds, and how much of it stands under which licence."""

    ref: str
    what: str
    counts: dict[str, int]


def chain(model: Artifact) -> list[Artifact]:
    """The models that a model was made of, the first one first, itself last; exports, which change nothing, apart."""
    found = [model]
    while MODEL in found[0].record.parents:
        found.insert(0, found[0].parent(MODEL))
    return [artifact for artifact in found if artifact.kind != EXPORTED]


def lineage(artifacts: Iterable[Artifact], learned_only: bool = False) -> list[Artifact]:
    """The artifacts and all their ancestors, each once, ancestors first."""
    return ancestry(artifacts, functools.partial(_read, learned_only=learned_only))


def sources(model: Artifact) -> list[Source]:
    """What a model and the models before it learned from, and those of them that others trained."""
    found = []
    for artifact in lineage([model], learned_only=True):
        if artifact.kind in DATA:
            found.append(Source(reference(artifact), DATA[artifact.kind], license_counts(artifact)))
        elif artifact.kind == "pretrained":
            license = licenses.normalize(artifact.metrics.get("license", ""))
            found.append(Source(f"{reference(artifact)} ({origin(artifact)})", "model", {license: 1}))
    return found


def license_counts(artifact: Artifact) -> dict[str, int]:
    """The licences of what is learned from a corpus, of conversations or of pairs: those of the train split."""
    if artifact.kind == "corpus":
        return licenses.counted((name, 1) for name in _column(artifact, "license"))
    rows = read_lines(artifact.location, "train.jsonl")
    if CONVERSATIONS in _read(artifact, learned_only=True) and not any("license" in row for row in rows):
        return license_counts(artifact.parent(CONVERSATIONS))  # older pairs say nothing themselves
    return licenses.counted((row.get("license", ""), 1) for row in rows)


def source_names(artifact: Artifact) -> list[str]:
    """What conversations or pairs name as their sources, the most frequent first."""
    rows = read_lines(artifact.location, "train.jsonl")
    return [name for name, _ in Counter(row.get("source", "") for row in rows).most_common(SHOWN_SOURCES) if name]


def reference(artifact: Artifact) -> str:
    return f"{artifact.kind}/{artifact.name}"


def origin(pretrained: Artifact) -> str:
    """What a model that others trained is called by them: on the Hub, in a package, or as its folder is."""
    metrics = pretrained.metrics
    if "hub" in metrics:
        return str(metrics["hub"])
    return str(metrics.get("package") or str(pretrained.spec["source"]).rstrip("/").rpartition("/")[2])


def _read(artifact: Artifact, learned_only: bool) -> list[str]:
    """The roles of the parents that a stage read; those that it learned from."""
    roles = list(artifact.record.parents)
    if artifact.kind in DATA and artifact.spec.get("source") == "file":
        return []  # older records name the input that a script gave and the stage did not read
    if not learned_only:
        return roles
    spec = SPECS.get(artifact.kind, Spec)
    return [role for role in roles if not spec.measures(role)]


def _column(corpus: Artifact, name: str) -> Iterator[str]:
    for part in corpus.location.names("train"):
        with corpus.location.open(f"train/{part}") as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=[name]):
                yield from Counter(batch.column(name).to_pylist()).elements()
