"""What running a pipeline would do: which steps are built, which must run, why, field by field, and what they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.control.planning.hardware import Hardware
from cluster.control.planning.prediction import Prediction, Unsized, predict
from cluster.core.graph import Graph, Step
from cluster.core.specs import spec as specs
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store


@dataclass(frozen=True)
class Planned:
    """One step of a plan: the finished artifact, or why there is none and, where it trains, what it needs."""

    step: Step
    artifact: Artifact | None
    reasons: tuple[str, ...]
    prediction: Prediction | None = None
    also_called: str = ""
    """The run's own name, where the artifact was built under another: it is given this one too."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "step": self.step.key,
            "kind": self.step.kind,
            "fingerprint": self.step.fingerprint,
            "built": self.artifact is not None,
            "artifact": self.artifact.record.ref if self.artifact else None,
            "reasons": list(self.reasons),
            "also_called": self.also_called,
            "prediction": self.prediction.as_dict() if self.prediction else None,
        }


def make_plan(graph: Graph, store: Store, hardware: Hardware | None = None) -> list[Planned]:
    """Compare every step with the store. For a step to build, `reasons` is the difference to the nearest artifact.

    With `hardware`, steps that would train are sized.
    """
    planned = []
    for step in graph.steps:
        artifact = store.find(step.kind, step.fingerprint)
        reasons: tuple[str, ...] = ()
        prediction = None
        if artifact is None:
            step.spec.check_scaling(graph.scaling)
            reasons = tuple(_why(step, store))
            if any(store.staging(step.kind, graph.name, step.fingerprint).walk()):
                reasons += ("resumes an interrupted run",)
            prediction, unsized = size(step, store, graph.scaling, hardware)
            reasons += unsized
        also = graph.name if artifact and artifact.name != graph.name else ""
        planned.append(Planned(step, artifact, reasons, prediction, also))
    return planned


def size(
    step: Step, store: Store, scaling: ScalingSpec, hardware: Hardware | None
) -> tuple[Prediction | None, tuple[str, ...]]:
    """What a step needs, or why that is not known, in a line. Raises SpecError for what its stage would refuse."""
    if hardware is None:
        return None, ()
    try:
        return predict(step, store, scaling, hardware), ()
    except Unsized as why:
        return None, (f"not sized: {why}",)


def _why(step: Step, store: Store) -> list[str]:
    candidates = [_difference(step, artifact) for artifact in store.list(step.kind)]
    if not candidates:
        many = step.kind.endswith("s") and not step.kind.endswith("us")  # tokens have, a corpus has
        return [f"no {step.kind} {'have' if many else 'has'} been built yet"]
    return min(reversed(candidates), key=len)  # of equally near ones, the newest


def _difference(step: Step, artifact: Artifact) -> list[str]:
    lines = specs.diff(artifact.spec, specs.fields(step.spec))
    if artifact.record.revision != step.spec.revision:
        lines.append(f"revision of the stage: {artifact.record.revision} -> {step.spec.revision}")
    named = artifact.record.named
    for name in sorted(named.keys() | step.named.keys()):
        if named.get(name) != step.named.get(name):
            lines.append(f"what {name} names: {_short(named.get(name))} -> {_short(step.named.get(name))}")
    parents = {name: parent.fingerprint for name, parent in artifact.record.parents.items()}
    for name in sorted(parents.keys() | step.inputs.keys()):
        new = step.inputs[name].fingerprint if name in step.inputs else None
        if parents.get(name) != new:
            lines.append(f"input {name}: {_short(parents.get(name))} -> {_short(new)}")
    return lines


def _short(fingerprint: str | None) -> str:
    return fingerprint[:12] if fingerprint else "none"
