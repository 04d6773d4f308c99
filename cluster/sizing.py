"""What a training step needs, before anything is spent: memory a worker, time, and what would suit it better.

A spec names the function that predicts by an import string (`sizing`), as it does its stage. The inputs of a step that
are built already are handed to it as artifacts, the others as steps.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from dataclasses import dataclass
from typing import Any

from cluster import hardware as machines
from cluster.artifact import Artifact
from cluster.errors import NotReadyError, SpecError
from cluster.graph import Graph, Step
from cluster.hardware import Hardware
from cluster.specs import ScalingSpec
from cluster.store import Store


class Unsized(Exception):
    """A step that trains, of which nothing can be said yet; the text says why."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int  # of communication
    activations: int
    checkpoint: int  # the copy that checkpoints are written from, where it is in the same memory
    runtime: int  # interpreter, libraries, device context

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    def as_dict(self) -> dict[str, int]:
        return {f"{name}_bytes": value for name, value in {**dataclasses.asdict(self), "total": self.total}.items()}


@dataclass(frozen=True)
class Layout:
    """How a run lies on its workers."""

    zero_stage: int
    micro_batch_size: int


@dataclass(frozen=True)
class Prediction:
    """What a training step needs on `hardware`."""

    hardware: Hardware
    num_workers: int
    precision: str
    parameters: int
    layout: Layout
    memory: Memory
    flops_per_token: float
    activation_bytes_per_token: float
    tokens: int | None  # of the whole run; None: known once the inputs are built
    recommended: Layout | None  # None: no layout fits

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.hardware.memory_bytes

    def tokens_per_second(self) -> float | None:
        """Of all workers together; None where the hardware's rate is not known. On a CPU this measures the rate."""
        seconds = self.hardware.seconds(self.flops_per_token, self.activation_bytes_per_token, self.precision)
        return seconds and self.num_workers / seconds

    def require_fit(self, key: str) -> None:
        """Raise SpecError where the weights and the optimizer's state alone are more than a worker's memory."""
        least, there = self.memory.weights + self.memory.optimizer, self.hardware.memory_bytes
        if least <= there:
            return
        remedy = "Take more workers, a smaller model, or more memory."
        if self.recommended:
            remedy = f"Set scaling.zero_stage={self.recommended.zero_stage}."
        raise SpecError(
            f"{key}: weights and optimizer of {self.parameters:,} parameters take {least / 1e9:,.1f} GB a worker with "
            f"ZeRO {self.layout.zero_stage} on {self.num_workers} workers, which have {there / 1e9:,.1f} GB each",
            remedy,
        )

    def as_dict(self) -> dict[str, Any]:
        rate = self.tokens_per_second()
        return {
            "hardware": self.hardware.name,
            "num_workers": self.num_workers,
            "parameters": self.parameters,
            **dataclasses.asdict(self.layout),
            "memory_per_worker": self.memory.as_dict(),
            "available_bytes": self.hardware.memory_bytes,
            "fits": self.fits,
            "flops_per_token": self.flops_per_token,
            "tokens": self.tokens,
            "tokens_per_second": rate and round(rate, 1),
            "duration_seconds": self.tokens / rate if rate and self.tokens is not None else None,
            "recommended": self.recommended and dataclasses.asdict(self.recommended),
        }


def predict(step: Step, store: Store, scaling: ScalingSpec, hardware: Hardware) -> Prediction | None:
    """What a step needs; None for one that does not train.

    Raises Unsized where it cannot be known yet, SpecError for what its stage would refuse.
    """
    if not step.spec.sizing:
        return None
    module, _, function = step.spec.sizing.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise Unsized(f"{error.name} is not installed here") from error
    prediction: Prediction = found(_with_artifacts(step, store), scaling, hardware)
    return prediction


def find_hardware(name: str, scaling: ScalingSpec) -> Hardware | None:
    """The hardware called `name`, else this machine, else None: of a cluster elsewhere nothing is known."""
    if name:
        return machines.named(name)
    if os.environ.get("RAY_ADDRESS", "") not in ("", "local"):
        return None
    try:
        return machines.here(scaling)
    except (NotReadyError, ModuleNotFoundError):  # a GPU, and none here; or no torch to ask for one
        return None


def require_fit(graph: Graph, store: Store, hardware: Hardware | None) -> None:
    """Raise SpecError for the first step of a graph, not built yet, that cannot fit into the workers' memory."""
    if hardware is None:
        return
    for step in graph.steps:
        if step.spec.sizing and store.find(step.kind, step.fingerprint) is None:
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
