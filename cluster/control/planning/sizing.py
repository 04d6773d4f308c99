"""What the steps of a plan need, found by a process of its own: models are traced with torch, and `ctl plan` shows its
table before a process could have imported that."""

from __future__ import annotations

import dataclasses
import pickle
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cluster.control.planning.hardware import measured_flops
from cluster.control.planning.plan import Planned, size
from cluster.control.planning.prediction import Prediction, find_hardware, is_elsewhere
from cluster.core.errors import JobError, TrunklineError, gist
from cluster.core.graph import read_changes
from cluster.core.pipeline import load_script
from cluster.core.storage.store import Store


@dataclass(frozen=True)
class Asked:
    """What `ctl plan` was asked for."""

    script: Path
    config: Path | None
    sets: list[str]
    name: str
    store: str | None
    hardware: str


# Of steps by key: what each needs, and in a line why that is not known.
Sizes = dict[str, tuple[Prediction | None, tuple[str, ...]]]


def with_sizes(planned: list[Planned], asked: Asked) -> list[Planned]:
    """The plan, with what the steps need that would train. Raises what the process met."""
    known = asked.hardware or not is_elsewhere()
    if not known or not any(item.artifact is None and item.step.spec.sizing for item in planned):
        return planned
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        answer = Path(folder) / "sizes"
        command = [sys.executable, "-c", f"from {__name__} import main; main()", str(answer)]
        done = subprocess.run(command, input=pickle.dumps(asked), capture_output=True, check=False)
        if not answer.exists():
            raise JobError(f"the steps could not be sized: {gist(done.stderr.decode(errors='replace'))}")
        sizes: Sizes | TrunklineError = pickle.loads(answer.read_bytes())
    if isinstance(sizes, TrunklineError):
        raise sizes
    sized = []
    for item in planned:
        prediction, reasons = sizes.get(item.step.key, (None, ()))
        sized.append(dataclasses.replace(item, prediction=prediction, reasons=item.reasons + reasons))
    return sized


def _find(asked: Asked) -> Sizes:
    """The sizes of the steps that are to be built and train, with this machine's rate in those that are of it."""
    store = Store(asked.store)
    graph = load_script(asked.script).graph(store, read_changes(asked.config, asked.sets), asked.name)
    hardware = find_hardware(asked.hardware, graph.scaling)
    if hardware and hardware.on_cpu:
        hardware = dataclasses.replace(hardware, flops_per_second=measured_flops(hardware.threads))
    todo = [step for step in graph.steps if step.spec.sizing and store.find(step.kind, step.fingerprint) is None]
    return {step.key: size(step, store, graph.scaling, hardware) for step in todo}


def main() -> None:
    """The process itself: what is asked for comes by stdin, the answer goes into the file that its argument names."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the terminal's Ctrl-C: who asked for this says so
    try:
        answer: Sizes | TrunklineError = _find(pickle.loads(sys.stdin.buffer.read()))
    except TrunklineError as error:
        answer = error
    Path(sys.argv[1]).write_bytes(pickle.dumps(answer))
