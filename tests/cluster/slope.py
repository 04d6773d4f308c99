"""A stage to sweep: it writes lines of metrics as training does, and hangs where it is to be ended."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from typing import Any, ClassVar

from cluster.core.context import Context
from cluster.core.metrics import METRICS_FILE
from cluster.core.specs.spec import Spec

LINES = 16


class SlopeSpec(Spec, frozen=True):
    """A loss that is what the learning rate is."""

    kind: ClassVar[str] = "slope"
    stage: ClassVar[str] = "tests.cluster.slope:build"
    inputs: ClassVar[dict[str, str]] = {"words": "words"}

    learning_rate: float = 1.0
    """The loss. Above 1 the stage never ends by itself, above 9 not by SIGTERM either; below 0 it fails."""
    log: str = ""
    """A file that gets a line when the stage begins and when it ends."""


def build(ctx: Context[SlopeSpec]) -> dict[str, Any]:
    def log(text: str) -> None:
        with open(ctx.spec.log, "a") as file:
            file.write(f"{text} {ctx.spec.learning_rate}\n")

    if ctx.spec.learning_rate < 0:
        log("begins")
        raise ValueError("a negative learning rate")
    try:
        log("begins")
        lines: list[dict[str, Any]] = []
        for step in range(1, LINES + 1):
            lines.append({"step": step, "loss": ctx.spec.learning_rate})
            ctx.output.write_bytes(METRICS_FILE, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            ctx.progress(step, LINES, "steps")
            if ctx.spec.learning_rate > 9:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                subprocess.run(["sleep", "1000000"], check=True)
            if ctx.spec.learning_rate > 1:
                threading.Event().wait()
    finally:
        log("ends")
    return {"loss": ctx.spec.learning_rate, "text": "not a figure"}
