"""Small stages that tests build: real specs with real inputs, nothing heavy."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from cluster.core.context import Context
from cluster.core.errors import InputError, SpecError
from cluster.core.specs.spec import ANY, Spec


class WordsSpec(Spec, frozen=True):
    """Words, one a line."""

    kind: ClassVar[str] = "words"
    stage: ClassVar[str] = "tests.core.toys:build_words"

    words: tuple[str, ...] = ("one", "two")
    """The words."""
    trap: str = ""
    """A file; while it exists the stage kills its own process after the first word."""
    log: str = ""
    """A file that gets a line each time the stage writes a word."""


class CountSpec(Spec, frozen=True):
    """The number of words."""

    kind: ClassVar[str] = "count"
    stage: ClassVar[str] = "tests.core.toys:build_count"
    inputs: ClassVar[dict[str, str]] = {"words": "words"}

    factor: Annotated[int, Meta(ge=1)] = 1
    """What the number is multiplied by."""


class TotalSpec(Spec, frozen=True):
    """The sum of any number of counts."""

    kind: ClassVar[str] = "total"
    stage: ClassVar[str] = "tests.core.toys:build_total"
    inputs: ClassVar[dict[str, str]] = {ANY: "count|total"}

    without: tuple[str, ...] = ()
    """Inputs that do not count."""

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        for name in self.without:
            if name not in inputs:
                raise SpecError(f"total.without: {name!r} is no input")


def build_words(ctx: Context[WordsSpec]) -> dict[str, Any]:
    for number, word in enumerate(ctx.spec.words):
        name = f"{number}.txt"
        if not ctx.output.exists(name):
            ctx.output.write_bytes(name, word.encode())
            if ctx.spec.log:
                with open(ctx.spec.log, "a") as log:
                    log.write(f"{word}\n")
        if ctx.spec.trap and Path(ctx.spec.trap).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        ctx.progress(number + 1, len(ctx.spec.words), "words")
    return {"words": len(ctx.spec.words)}


def build_count(ctx: Context[CountSpec]) -> dict[str, Any]:
    ctx.progress(0, 1, "counts")
    folder = ctx.inputs["words"].local()
    words = sorted(folder.glob("*.txt"))
    if not words:
        raise InputError("count: there are no words")
    ctx.output.write_bytes("count.txt", str(ctx.spec.factor * len(words)).encode())
    return {"count": ctx.spec.factor * len(words)}


def build_total(ctx: Context[TotalSpec]) -> dict[str, Any]:
    counted = {name: artifact for name, artifact in ctx.inputs.items() if name not in ctx.spec.without}
    total = sum(next(iter(artifact.metrics.values())) for artifact in counted.values())
    ctx.output.write_bytes("total.txt", str(total).encode())
    return {"total": total}
