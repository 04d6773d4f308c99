"""The graph of a pipeline: running its function records the steps; nothing is built and nothing heavy is imported."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.clusters.meant import default_scaling
from cluster.core.errors import InputError, SpecError, TrunklineError, nearest
from cluster.core.identity import references
from cluster.core.specs import literals, overlay
from cluster.core.specs import spec as specs
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.infra import InfraSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import ANY, Spec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store

SCALING = "scaling"
SECTIONS: dict[str, Spec] = {"endpoint": EndpointSpec(model="-"), "infra": InfraSpec()}  # in the same file, of others
INPUTS = "inputs"  # beside a step's fields: a finished artifact instead of what the script names


@dataclass(frozen=True)
class Step:
    """One artifact that a pipeline wants: a spec and the steps (or finished artifacts) that it is built from."""

    key: str
    spec: Spec
    inputs: dict[str, Step | Artifact]
    fingerprint: str
    named: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def target(self) -> str:
        """`kind/fingerprint`, as of an artifact's record."""
        return f"{self.kind}/{self.fingerprint}"


Steps = Callable[..., Step]


@dataclass
class Graph:
    """The steps of a pipeline in the order in which they can be built, and the scaling that they share."""

    name: str
    steps: list[Step] = field(default_factory=list)
    scaling: ScalingSpec = field(default_factory=ScalingSpec)

    @property
    def targets(self) -> set[str]:
        """What a run of it builds, and what it is built from."""
        given = [i.record.target for step in self.steps for i in step.inputs.values() if isinstance(i, Artifact)]
        return {step.target for step in self.steps} | set(given)

    def step(self, key: str) -> Step:
        for step in self.steps:
            if step.key == key:
                return step
        raise SpecError(f"{self.name} has no step {key!r}", nearest(key, [step.key for step in self.steps]))


def record(name: str, function: Callable[[Steps], Any], changes: dict[str, Any], store: Store) -> Graph:
    """Run a pipeline's function and record its steps, each spec overridden by `changes[key]`.

    Raises SpecError for a change to a step that does not exist, a wrong value, or inputs that do not fit.
    """
    graph = Graph(name)
    scaling = _mapping(changes.get(SCALING, {}), SCALING)

    def add(spec: Spec, name: str = "", **inputs: Step | str) -> Step:
        key = name or spec.kind
        if any(step.key == key for step in graph.steps):
            raise SpecError(f"{graph.name}: two steps are called {key!r}", "Give one of them `name=...`.")
        given = dict(_mapping(changes.get(key, {}), key))
        asked = {n: str(ref) for n, ref in _mapping(given.pop(INPUTS, {}), f"{key}.{INPUTS}").items()}
        spec = specs.override(spec, given, key)
        unused = spec.unused_inputs()  # a script gives what its own fields need, and others may have been set
        inputs = {**{n: i for n, i in inputs.items() if n not in unused}, **asked}
        resolved = {n: store.resolve(i) if isinstance(i, str) else i for n, i in inputs.items()}
        _check_inputs(key, spec, resolved)
        prints = {n: i.fingerprint for n, i in resolved.items()}
        named = _named(spec, prints, store)
        step = Step(key, spec, resolved, specs.fingerprint(spec, prints, named), named)
        graph.steps.append(step)
        return step

    try:
        function(add)
    except TrunklineError:
        raise
    except Exception as error:
        raise in_script(error, Path(getattr(function, "__code__", add.__code__).co_filename)) from error
    known = [step.key for step in graph.steps] + [SCALING, *SECTIONS]
    for key in changes:
        if key in SECTIONS and not any(step.key == key for step in graph.steps):
            specs.override(SECTIONS[key], _mapping(changes[key], key), key)
        elif key not in known:
            raise SpecError(f"{key}: {graph.name} has no such step", nearest(key, known))
    if usual := default_scaling():
        scaling = overlay.lay(ScalingSpec, usual, scaling, SCALING)
    graph.scaling = specs.convert(scaling, ScalingSpec, SCALING)
    return graph


def _named(spec: Spec, inputs: dict[str, str], store: Store) -> dict[str, str]:
    """What a spec names, as it is here; where files are gone, what was made of them last is what they were."""
    found = references.named(spec, store.local_root)
    if gone := references.missing(spec):
        written = specs.fields(spec)
        for made in reversed(store.list(spec.kind)):
            record = made.record
            parents = {name: parent.fingerprint for name, parent in record.parents.items()}
            alike = (record.revision, record.spec, parents) == (spec.revision, written, inputs)
            if alike and {**found, **{where: record.named.get(where, "") for where in gone}} == record.named:
                return record.named
    return found


def pinned(graph: Graph) -> dict[str, Any]:
    """Changes that make the same graph of the same script, whatever aliases mean by then and wherever it is done."""
    changes: dict[str, Any] = {SCALING: specs.fields(graph.scaling)}
    for step in graph.steps:
        given = {n: f"{i.kind}/{i.fingerprint}" for n, i in step.inputs.items() if isinstance(i, Artifact)}
        changes[step.key] = specs.fields(step.spec) | ({INPUTS: given} if given else {})
    return changes


def in_script(error: Exception, path: Path) -> TrunklineError:
    """An error of a user's script as one sentence, with the line; for a field that does not exist, the nearest."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    lines += [error.lineno] if isinstance(error, SyntaxError) else []
    at = f"{path}:{lines[-1]}" if lines else f"{path}"
    wrong = re.match(r"Unexpected keyword argument '(.+)'", str(error)) if isinstance(error, TypeError) else None
    if wrong:
        return SpecError(f"{at}: unknown field {wrong[1]!r}", nearest(wrong[1], sorted(_fields(msgspec.Struct))))
    return InputError(f"{at}: {type(error).__name__}: {error}")


def _fields(cls: type) -> set[str]:
    """The fields of a struct and of everything that is derived from it."""
    below: list[type] = type.__subclasses__(cls)
    return set(getattr(cls, "__struct_fields__", ())).union(*map(_fields, below))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SpecError(f"{where}: expected fields, got {value!r}", f"Write `{where}.FIELD=VALUE`.")
    return value


def _check_inputs(key: str, spec: Spec, inputs: dict[str, Step | Artifact]) -> None:
    for name, given in inputs.items():
        kinds = spec.inputs.get(name, spec.inputs.get(ANY))
        if kinds is None:
            raise SpecError(f"{key}: no input is called {name!r}", nearest(name, list(spec.inputs) or ["(none)"]))
        if given.kind not in kinds.split("|"):
            raise SpecError(f"{key}: input {name!r} must be a {_either(kinds)}, not a {given.kind}")
    for name, kinds in spec.inputs.items():
        if name == ANY and not inputs:
            raise SpecError(f"{key}: there is no input", f"Pass {_either(kinds)} steps under names of your own.")
        if name != ANY and name not in inputs and name not in spec.optional_inputs:
            raise SpecError(f"{key}: input {name!r} is missing", f"Pass the {_either(kinds)} step as `{name}=...`.")
    spec.check_inputs(inputs)


def _either(kinds: str) -> str:
    return " or ".join(kinds.split("|"))


def read_changes(config: Path | None, sets: list[str]) -> dict[str, Any]:
    """What `--config FILE` (YAML: step to fields) says and, over it, every `--set step.field=value`."""
    changes: dict[str, Any] = overlay.steps(read_yaml(config) if config is not None else {})
    for assignment in sets:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or len(keys) < 2 or not all(keys):
            raise SpecError(f"--set {assignment}: not of the form STEP.FIELD=VALUE", "Try pretrain.total_tokens=1e6.")
        try:
            value: Any = literals.parse(text)
        except SpecError as error:
            raise SpecError(f"--set {path}: {error.message}", error.remedy) from None
        for key in reversed(keys):
            value = overlay.At({key: value})
        changes = overlay.combine(changes, value)
    return changes


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that must hold a mapping. Raises InputError or SpecError with the line."""
    data = literals.read(path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SpecError(f"{path}: expected a mapping of steps to fields, got {type(data).__name__}")
    return data
