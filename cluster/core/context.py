"""What a stage is given: its spec, its inputs, a place to write, how to scale, and someone to tell about progress."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import Spec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location

S = TypeVar("S", bound=Spec)

Report = Callable[[float, float, str, dict[str, Any]], None]


def silent(done: float, total: float, unit: str, stats: dict[str, Any]) -> None:
    """A progress report that no one listens to."""


def unheard(text: str) -> None:
    """A notice that no one listens to."""


@dataclass
class Context(Generic[S]):
    """Everything that a stage may depend on. A stage is `build(ctx) -> dict of metrics`; its files go to `output`.

    `output` survives an interruption: an attempt finds there what the one before it left, and a stage writes so that
    a file is either whole or absent (`Location.write_bytes`). Everything in it when the stage returns is the artifact.
    """

    spec: S
    inputs: dict[str, Artifact]
    output: Location
    scaling: ScalingSpec
    name: str
    fingerprint: str
    report: Report = field(default=silent, repr=False)
    notice: Callable[[str], None] = field(default=unheard, repr=False)
    """Tell people one sentence, at once, of something that they should know."""
    written: S | None = None
    """The spec as it was written, and as records show it: in `spec` the paths are such that every worker finds them."""

    def progress(self, done: float, total: float, unit: str, **stats: Any) -> None:
        """Tell how far the stage is (`done` of `total` `unit`s) and a few figures worth a glance. Cheap to call."""
        self.report(done, total, unit, stats)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary local folder, gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
            yield Path(folder)
