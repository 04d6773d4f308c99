"""What a training step needs, before anything is spent: memory a worker, time, and what would suit it better.

A spec names the function that predicts by an import string (`sizing`), as it does its stage. The inputs of a step that
are built already are handed to it as artifacts, the others as steps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.control.planning import hardware as machines
from cluster.control.planning.hardware import Hardware
from cluster.control.planning.rollouts import RolloutEngines, Saving
from cluster.core.clusters.meant import meant
from cluster.core.errors import NotReadyError, SpecError
from cluster.core.graph import Graph, Step
from cluster.core.import_strings import import_string
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store


class Unsized(Exception):
    """A step that trains, of which nothing can be said yet; the text says why."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker at the peak of a step, in one memory."""

    weights: int = 0  # of what is trained, and of what is frozen in it
    gradients: int = 0
    optimizer: int = 0
    buffers: int = 0  # of communication
    activations: int = 0
    checkpoint: int = 0  # the copy that checkpoints are written from, where it is in the same memory
    runtime: int = 0  # interpreter, libraries, device context
    models: int = 0  # that are asked and not trained: reference, reward model, teacher
    sync: int = 0  # weights on their way to the rollout engines
    engines: int = 0  # this worker's share of the rollout engines, where they are in the same memory

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    def __add__(self, other: Memory) -> Memory:
        return Memory(*map(sum, zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def as_dict(self) -> dict[str, int]:
        return {f"{name}_bytes": value for name, value in {**dataclasses.asdict(self), "total": self.total}.items()}


@dataclass(frozen=True)
class Layout:
    """How a run lies on its workers: fields of ScalingSpec, but that the micro-batch is a number."""

    zero_stage: int
    micro_batch_size: int
    activation_checkpointing: bool = False
    offload_optimizer: Literal["none", "cpu"] = "none"
    offload_parameters: Literal["none", "cpu"] = "none"

    @property
    def offloads(self) -> bool:
        return "cpu" in (self.offload_optimizer, self.offload_parameters)

    def changes(self, other: Layout) -> str:
        """The settings that turn another layout into this one."""
        before = dataclasses.asdict(other)
        changed = {name: value for name, value in dataclasses.asdict(self).items() if value != before[name]}
        return ", ".join(f"scaling.{name}={str(value).lower()}" for name, value in changed.items())


@dataclass(frozen=True)
class Placed:
    """A layout, and what it takes of a worker's memory, and beside a GPU of main memory."""

    layout: Layout
    memory: Memory
    host_memory: Memory | None

    def fits(self, hardware: Hardware, share: float = 1.0) -> bool:
        """Whether it takes no more than a share of either memory; of main memory that is not known, what it likes."""
        if self.memory.total > share * hardware.memory_bytes:
            return False
        if self.host_memory is None or not hardware.host_memory_bytes:
            return True
        return self.host_memory.total <= share * hardware.host_memory_bytes

    def told(self) -> str:
        """Its totals, for people."""
        host = f" and {self.host_memory.total / 1e9:,.1f} GB of main memory" if self.host_memory else ""
        return f"{self.memory.total / 1e9:,.1f} GB{host} a worker"

    def as_dict(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self.layout),
            "memory_per_worker": self.memory.as_dict(),
            "host_memory_per_worker": self.host_memory and self.host_memory.as_dict(),
        }


@dataclass(frozen=True)
class Prediction:
    """What a training step needs on `hardware`."""

    hardware: Hardware
    num_workers: int
    precision: str
    parameters: int
    trained_parameters: int  # fewer where an adapter is trained
    placed: Placed
    flops_per_token: float  # of the device: what activation checkpointing computes again is counted
    activation_bytes_per_token: float
    tokens: int | None  # of the whole run; None: known once the inputs are built
    recommended: Layout | None  # None: no layout fits
    instead: Placed | None  # where the layout does not fit: the same with the least saving of memory that does
    untimed: str = ""  # why the speed is not told, where it is not
    models: dict[str, int] = field(default_factory=dict)  # bytes of each that the weights and `memory.models` are of
    engines: RolloutEngines | None = None
    savings: tuple[Saving, ...] = ()  # beyond layouts

    @property
    def layout(self) -> Layout:
        return self.placed.layout

    @property
    def memory(self) -> Memory:
        return self.placed.memory

    @property
    def fits(self) -> bool:
        return self.placed.fits(self.hardware)

    def tokens_per_second(self) -> float | None:
        """Of all workers together; None where the hardware's rate is not known, or that of copies between a GPU and
        main memory would count. On a CPU this measures the rate."""
        if self.untimed or (self.layout.offloads and not self.hardware.on_cpu):
            return None
        seconds = self.hardware.seconds(self.flops_per_token, self.activation_bytes_per_token, self.precision)
        return seconds and self.num_workers / seconds

    def require_fit(self, key: str) -> None:
        """Raise SpecError where the weights and the optimizer's state alone are more than a worker's memory, or, beside
        a GPU, what is offloaded more than its main memory; or where an engine has no room for one completion."""
        if self.engines:
            self.engines.require_room(key)
        self._require(key, self.memory, self.hardware.memory_bytes, "")
        if self.placed.host_memory and self.hardware.host_memory_bytes:
            self._require(key, self.placed.host_memory, self.hardware.host_memory_bytes, "of main memory ")

    def _require(self, key: str, memory: Memory, there: int, of: str) -> None:
        least = memory.weights + memory.optimizer + memory.models
        if least <= there:
            return
        remedy = "Take more workers, a smaller model, or more memory."
        if self.savings:
            remedy += f" Or spare some: {self.savings[0].setting} ({self.savings[0].bytes / 1e9:,.1f} GB a worker)."
        if self.recommended:
            remedy = f"Set {self.recommended.changes(self.layout)}."
        elif self.instead:
            remedy = f"Set {self.instead.layout.changes(self.layout)}, which takes {self.instead.told()}."
        raise SpecError(
            f"{key}: weights and optimizer of {self.parameters:,} parameters"
            + (f", {', '.join(self.models)}," if memory.models else "")
            + f" take {least / 1e9:,.1f} GB {of}a worker "
            f"with ZeRO {self.layout.zero_stage} on {self.num_workers} workers, which have {there / 1e9:,.1f} GB each",
            remedy,
        )

    def as_dict(self) -> dict[str, Any]:
        rate = self.tokens_per_second()
        return {
            "hardware": self.hardware.name,
            "num_workers": self.num_workers,
            "parameters": self.parameters,
            "trained_parameters": self.trained_parameters,
            **self.placed.as_dict(),
            "available_bytes": self.hardware.memory_bytes,
            "host_available_bytes": self.hardware.host_memory_bytes or None,
            "fits": self.fits,
            "flops_per_token": self.flops_per_token,
            "tokens": self.tokens,
            "tokens_per_second": rate and round(rate, 1),
            "duration_seconds": self.tokens / rate if rate and self.tokens is not None else None,
            "recommended": self.recommended and dataclasses.asdict(self.recommended),
            "instead": self.instead and self.instead.as_dict(),
            "models": self.models,
            "rollout_engine": self.engines and self.engines.as_dict(),
            "savings": [dataclasses.asdict(saving) for saving in self.savings],
        }


def predict(step: Step, store: Store, scaling: ScalingSpec, hardware: Hardware) -> Prediction | None:
    """What a step needs; None for one that does not train.

    Raises Unsized where it cannot be known yet, SpecError for what its stage would refuse.
    """
    if not step.spec.sizing:
        return None
    try:
        found = import_string(step.spec.sizing)
    except ModuleNotFoundError as error:
        raise Unsized(f"{error.name} is not installed here") from error
    prediction: Prediction = found(_with_artifacts(step, store), scaling, hardware)
    return prediction


def is_elsewhere() -> bool:
    """Whether a cluster is meant that this machine may know nothing of."""
    return not meant().here


def find_hardware(name: str, scaling: ScalingSpec) -> Hardware | None:
    """The hardware called `name`, else this machine, else None: of a cluster elsewhere nothing is known."""
    if name:
        return machines.named(name)
    if is_elsewhere():
        return None
    try:
        return machines.here(scaling)
    except (NotReadyError, ModuleNotFoundError):  # a GPU, and none here; or no torch to ask for one
        return None


def require_fit(graph: Graph, store: Store, hardware: Hardware | None) -> None:
    """Raise SpecError for the first step of a graph, not built yet, that the workers cannot share, or that cannot fit
    into their memory."""
    todo = [step for step in graph.steps if store.find(step.kind, step.fingerprint) is None]
    for step in todo:
        step.spec.check_scaling(graph.scaling)
    if hardware is None:
        return
    for step in todo:
        if step.spec.sizing:
            try:
                prediction = predict(step, store, graph.scaling, hardware)
            except Unsized:  # its stage will know
                continue
            if prediction:
                prediction.require_fit(step.key)


def _with_artifacts(step: Step, store: Store) -> Step:
    """The step with every input that is built as its artifact, at any depth."""

    def known(given: Step | Artifact) -> Step | Artifact:
        if isinstance(given, Artifact):
            return given
        return store.find(given.kind, given.fingerprint) or _with_artifacts(given, store)

    return dataclasses.replace(step, inputs={name: known(given) for name, given in step.inputs.items()})
