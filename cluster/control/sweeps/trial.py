"""One trial of a sweep: a process of its own that runs a pipeline up to the step that is judged, told line by line.

A process, because a trial is what `ctl run` would be: its steps come from the same store with the same leases and
checkpoints, it joins the sweep's cluster as a driver of its own, and SIGTERM ends it in order.

    python -m cluster.control.sweeps.trial REQUEST.json

prints a JSON object for every line of the step's metrics, and the result.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cluster.control.run import run
from cluster.control.screen.console import guarded
from cluster.control.screen.view import View
from cluster.core import metrics
from cluster.core.errors import InputError, nearest
from cluster.core.graph import Graph, Step
from cluster.core.pipeline import load_script
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.lines import Follower
from cluster.core.storage.store import Store

PERCENT = "percent"  # how far the step is
VALUE = "value"  # of the metric, or the training loss where a line has no such figure
ARTIFACT = "artifact"
ALIVE = "alive"  # any step went on
ALIVE_SECONDS = 1.0  # between two messages that say no more than that


class Request(msgspec.Struct, frozen=True):
    """What a trial runs: a script with changes (step to fields), and the figure that it is judged by."""

    script: str
    store: str
    name: str
    changes: dict[str, Any]
    step: str
    metric: str

    def graph(self) -> Graph:
        """The steps that the judged one needs, and itself."""
        graph = load_script(Path(self.script)).graph(Store(self.store), self.changes, self.name)
        return until(graph, graph.step(self.step))


def until(graph: Graph, last: Step) -> Graph:
    """The part of a graph that `last` is built from."""
    needed, todo = {last.key}, [last]
    while todo:
        given = [step for step in todo.pop().inputs.values() if isinstance(step, Step)]
        needed |= {step.key for step in given}
        todo += given
    return Graph(graph.name, [step for step in graph.steps if step.key in needed], graph.scaling)


class Telling(View):
    """Tells each new line of the judged step's metrics; of the other steps, that they go on."""

    def __init__(self, request: Request, graph: Graph, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._tell = tell
        step = graph.step(request.step)
        self._request = request
        place = Store(request.store).staging(step.kind, graph.name, step.fingerprint)
        self._record = Follower(place, metrics.METRICS_FILE)
        self._judged_by = metrics.LOSS
        self._told = 0
        self._alive = 0.0

    def _sign_of_life(self) -> None:
        if time.monotonic() - self._alive >= ALIVE_SECONDS:
            self._alive = time.monotonic()
            self._tell({ALIVE: True})

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def started(self, key: str) -> None:
        super().started(key)
        self._sign_of_life()

    def progress(self, key: str, done: float, total: float, unit: str, stats: dict[str, Any]) -> None:
        self._sign_of_life()
        if key == self._request.step:
            self._tell_lines(self._record.new(), total)

    def finished(self, key: str, artifact: Artifact, seconds: float, *, was_there: bool) -> None:
        super().finished(key, artifact, seconds, was_there=was_there)
        if key == self._request.step and (lines := metrics.read(artifact.location)):
            self._tell_lines(lines, lines[-1][metrics.STEP])

    def _tell_lines(self, lines: list[dict[str, Any]], total: float) -> None:
        """What is new; where a run validates now and then, only the lines that have the metric."""
        if any(self._request.metric in line for line in lines):
            self._judged_by = self._request.metric
        for line in lines:
            if self._told < line[metrics.STEP] < total and self._judged_by in line:
                self._told = line[metrics.STEP]
                self._tell({PERCENT: 100 * self._told / total, VALUE: line[self._judged_by]})


def result(artifact: Artifact, metric: str) -> dict[str, Any]:
    """The last message of a trial. Raises InputError where the artifact has no such figure."""
    found = artifact.metrics.get(metric)
    if not isinstance(found, (int, float)):
        known = [name for name, value in artifact.metrics.items() if isinstance(value, (int, float))]
        raise InputError(f"--metric {metric}: {artifact.record.ref} has no such figure", nearest(metric, known))
    return {PERCENT: 100.0, VALUE: float(found), ARTIFACT: artifact.record.ref}


def main() -> None:
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray and libraries print must not come between the messages

    def tell(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=channel, flush=True)

    def work() -> None:
        graph = request.graph()
        built = run(graph, Store(request.store), Telling(request, graph, tell))
        tell(result(built[request.step], request.metric))

    sys.exit(guarded(work))


if __name__ == "__main__":
    main()
