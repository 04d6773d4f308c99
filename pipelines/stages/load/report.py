"""What a load test leaves: results.json, and a line for each request in samples.jsonl. As one file, both together."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.errors import InputError
from cluster.core.provenance import versions
from cluster.core.storage.store import Store
from pipelines.stages.load.client import Sample
from pipelines.stages.load.figures import Figures

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.jsonl"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the client ran."""

    platform: str
    cpus: int
    """That this process may use."""
    versions: dict[str, str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A load test: what was asked of whom, and what came of it."""

    spec: dict[str, Any]
    endpoint: dict[str, Any]
    """What it says of itself: its `artifact`, the version of its `vllm`."""
    machine: Machine
    figures: Figures
    notes: list[str] = []
    samples: list[Sample] = []
    """In a file of its own where the report is an artifact."""


def this_machine() -> Machine:
    return Machine(platform=platform.platform(), cpus=len(os.sched_getaffinity(0)), versions=versions())


def encode(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def encode_samples(samples: Iterable[Sample]) -> bytes:
    return b"".join(msgspec.json.encode(sample) + b"\n" for sample in samples)


def read(ref: str, store: str | None) -> tuple[str, Report]:
    """A report by the name of an artifact, or by its file, and what it is called. Raises InputError."""
    if ref.endswith(".json") or Path(ref).is_file():
        try:
            return Path(ref).stem, msgspec.json.decode(Path(ref).read_bytes(), type=Report)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise InputError(f"{ref}: no report of a load test ({error})", "Give what --out has written.") from None
    artifact = Store(store).resolve(ref, "load")
    if artifact.kind != "load":
        raise InputError(f"{artifact.record.ref} is no load test", "Give one of `ctl bench serve`.")
    report = msgspec.json.decode(artifact.location.read_bytes(RESULTS_FILE), type=Report)
    lines = artifact.location.read_bytes(SAMPLES_FILE).splitlines()
    samples = [msgspec.json.decode(line, type=Sample) for line in lines]
    return artifact.record.folder, msgspec.structs.replace(report, samples=samples)
