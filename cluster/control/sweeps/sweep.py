"""Sweeps: trials of one pipeline over a space of spec fields, run and pruned by Ray Tune.

ASHA (Li et al. 2020, arXiv:1810.05934) stops a trial at a sixteenth and at a quarter of its way where it is not among
the best quarter of those that came so far. What a trial builds goes into the store like everything else, so that no
work is done twice, and a sweep that was interrupted goes on when the same command is given again.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from cluster.control import growth, runtime
from cluster.control.planning.prediction import find_hardware, require_fit
from cluster.control.run import run
from cluster.control.screen.console import as_sentence
from cluster.control.screen.view import View
from cluster.control.sweeps.space import Axis, draw, nested
from cluster.control.sweeps.trial import ALIVE, ARTIFACT, PERCENT, VALUE, Request, until
from cluster.core.clusters import meant
from cluster.core.errors import InterruptedRun, JobError, SpecError, UsageError, nearest
from cluster.core.graph import SCALING, Graph, Step, pinned
from cluster.core.pipeline import load_script
from cluster.core.specs import overlay
from cluster.core.specs import spec as specs
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.storage.store import Store

FOLDER = ".sweeps"  # in the store's root
SWEEP_FILE = "sweep.json"
REDUCTION = 4
GRACE_PERCENT = 100 / REDUCTION**2
END_SECONDS = 60.0  # that a trial which is stopped may take to end by itself
# Without a sign of life a trial has hung. Twice the deadline of torch's collectives: they know more of the cause.
STALL_SECONDS = 3600.0


class Trial(msgspec.Struct):
    """One trial and what became of it. `value` is the metric at the end, or the last that was told before pruning."""

    fields: dict[str, Any]
    state: Literal["waiting", "finished", "pruned", "failed"] = "waiting"
    percent: float = 0.0
    value: float | None = None
    artifact: str = ""
    error: str = ""


class Sweep(msgspec.Struct):
    """A sweep as its file holds it: what was asked for, and the trials in the order in which they were drawn."""

    name: str
    step: str
    metric: str
    mode: Literal["min", "max"]
    seed: int
    over: list[str]
    trials: list[Trial]

    def best_first(self) -> list[Trial]:
        """Finished trials by their metric, then pruned ones by how far they came, then the rest."""
        sign = 1 if self.mode == "min" else -1
        order = {"finished": 0, "pruned": 1, "failed": 2, "waiting": 3}
        return sorted(
            self.trials,
            key=lambda t: (order[t.state], -t.percent, float("inf") if t.value is None else sign * t.value),
        )


class Plan:
    """A sweep that was checked: every trial's graph is valid, and training fits into the memory there is."""

    def __init__(
        self,
        script: Path,
        store: Store,
        changes: dict[str, Any],
        name: str,
        axes: list[Axis],
        *,
        samples: int,
        metric: str,
        mode: Literal["min", "max"],
        seed: int,
        over: list[str],
    ) -> None:
        """Raises SpecError for a field that does not exist, a value out of bounds, or one that changes nothing."""
        self.script, self.store = script.absolute(), store
        pipeline = load_script(script)
        graph = pipeline.graph(store, changes, name)
        step, self.metric = _judged(graph, metric, axes)
        _check_axes(until(graph, step), step, axes)
        self.step, self.name, self.scaling = step.key, graph.name, graph.scaling
        trials = draw(axes, samples, seed)
        drawn = [overlay.combine(overlay.steps(changes), nested(trial)) for trial in trials]
        graphs = [pipeline.graph(store, each, name) for each in drawn]
        self.changes = [pinned(graph) for graph in graphs]  # a trial starts later: no alias is looked up again
        self.graphs = [until(each, each.step(step.key)) for each in graphs]
        for each in self.graphs:
            require_fit(each, store, find_hardware("", each.scaling))
        judged = [each.step(step.key).fingerprint for each in self.graphs]
        identity = specs.canonical([judged, self.metric, mode])
        self.place = store.root / FOLDER / f"{graph.name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        self.sweep = Sweep(graph.name, step.key, self.metric, mode, seed, over, [Trial(fields) for fields in trials])
        if self.place.exists(SWEEP_FILE):
            self.sweep = msgspec.json.decode(self.place.read_bytes(SWEEP_FILE), type=Sweep)

    def request(self, number: int) -> Request:
        changes = self.changes[number]
        return Request(str(self.script), self.store.root.url, self.name, changes, self.step, self.metric)

    def common(self) -> Graph:
        """The steps that all trials share: they are built once, before the first."""
        prints = set.intersection(*({step.fingerprint for step in graph.steps} for graph in self.graphs))
        return Graph(self.name, [s for s in self.graphs[0].steps if s.fingerprint in prints], self.scaling)

    def save(self) -> None:
        self.place.write_bytes(SWEEP_FILE, msgspec.json.format(msgspec.json.encode(self.sweep), indent=2))


def _judged(graph: Graph, metric: str, axes: list[Axis]) -> tuple[Step, str]:
    """The step whose metric counts: named before it (`evaluation.bits_per_byte`), else the last that is swept and
    trains, else the last that trains."""
    key, dot, name = metric.partition(".")
    if dot:
        return graph.step(key), name
    training = [step for step in graph.steps if step.spec.trains]
    swept = [step for step in training if any(axis.path.startswith(f"{step.key}.") for axis in axes)]
    if not training:
        raise UsageError(f"--metric {metric}: no step of {graph.name} trains", "Name one: --metric STEP.METRIC.")
    return (swept or training)[-1], metric


def _check_axes(graph: Graph, judged: Step, axes: list[Axis]) -> None:
    """Every swept field must exist and change what is judged; values are checked with each trial's specs."""
    known = {step.key: specs.fields(step.spec) for step in graph.steps}
    for axis in axes:
        key, field, *_ = axis.path.split(".")
        if key == SCALING:
            raise SpecError(f"--over {axis.path}: scaling changes no result", "Set it once, with --set.")
        if key not in known:
            remedy = nearest(key, list(known))
            raise SpecError(f"--over {axis.path}: {judged.key} is not built from a step {key!r}", remedy)
        if field not in known[key]:
            raise SpecError(f"--over {axis.path}: unknown field", nearest(field, list(known[key])))


def run_sweep(
    plan: Plan,
    view: View,
    *,
    prune: bool,
    concurrent: int = 0,
    stall_seconds: float = STALL_SECONDS,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> Sweep:
    """Run the trials that have not ended yet, and tell of each as it ends. `concurrent` 0: as many as have room.

    A trial that makes no progress for `stall_seconds` is stopped and has failed; 0 lets it.

    Raises InterruptedRun where it was stopped: what ended is kept, and the rest goes on from where it was.
    """
    todo = [number for number, trial in enumerate(plan.sweep.trials) if trial.state in ("waiting", "failed")]
    if not todo:
        return plan.sweep
    plan.save()
    runtime.connect(plan.scaling)
    with plan.store.using(set().union(*(graph.targets for graph in plan.graphs))):  # of trials that wait, too
        run(plan.common(), plan.store, view)
        with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
            _fit(plan, todo, folder, prune, concurrent or _room(plan.scaling), stall_seconds, tell)
        if any(plan.sweep.trials[number].state == "waiting" for number in todo):
            raise InterruptedRun("the sweep was interrupted", "Run the same command to resume.")
    return plan.sweep


def _room(scaling: ScalingSpec) -> int:
    """How many trials the cluster has room for at once."""
    import ray

    there = growth.grown(ray.cluster_resources())
    wanted = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    counts = [int(there.get(name, 0) // (scaling.num_workers * each)) for name, each in wanted.items() if each]
    return max(1, min(counts))


def _fit(
    plan: Plan,
    todo: list[int],
    folder: str,
    prune: bool,
    concurrent: int,
    stall_seconds: float,
    tell: Callable[[Trial], None],
) -> None:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    class Watcher(tune.Callback):
        """Notes in the sweep's file what Tune says of a trial."""

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            record = plan.sweep.trials[trial.config["number"]]
            record.percent, record.value = result[PERCENT], result[VALUE]
            record.artifact = result.get(ARTIFACT, "")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            record = plan.sweep.trials[trial.config["number"]]
            record.state = "finished" if record.artifact else "pruned"
            self.note(record)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            record = plan.sweep.trials[trial.config["number"]]
            record.state = "failed"
            self.note(record)

        def note(self, record: Trial) -> None:
            plan.save()
            tell(record)

    schedule = {"time_attr": PERCENT, "metric": VALUE, "mode": plan.sweep.mode, "max_t": 100}
    scheduler = ASHAScheduler(**schedule, grace_period=GRACE_PERCENT, reduction_factor=REDUCTION)
    here = ray.util.get_node_ip_address()
    tuner = tune.Tuner(
        # On this node, which has the script; what a trial needs besides, it asks for itself.
        tune.with_resources(trainable(), tune.PlacementGroupFactory([{f"node:{here}": 0.001}])),
        param_space={
            "number": tune.grid_search(todo),
            "requests": {number: specs.canonical(plan.request(number)) for number in todo},
            "cwd": os.getcwd(),
            "address": ray.get_runtime_context().gcs_address,
            "stall_seconds": stall_seconds,
        },
        tune_config=tune.TuneConfig(
            scheduler=scheduler if prune else FIFOScheduler(), max_concurrent_trials=concurrent
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=folder,
            callbacks=[Watcher()],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial's state is in the store
            verbose=0,
        ),
    )
    for outcome in tuner.fit():
        if outcome.error:
            plan.sweep.trials[outcome.config["number"]].error = as_sentence(outcome.error).message
    plan.save()


def trainable() -> Any:
    """The class that Tune runs: one line of a trial's process is one step. Defined here, as `cluster` needs no Ray."""
    from ray import tune

    class TrialProcess(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            request = Path(self.logdir) / "request.json"
            request.write_text(config["requests"][config["number"]])
            self.errors = (Path(self.logdir) / "stderr").open("w+")
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cluster.control.sweeps.trial", str(request)],
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                cwd=config["cwd"],  # Tune has folders of its own
                env=meant.environment(config["address"]),
            )
            self.stall_seconds = config["stall_seconds"] or None
            self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
            threading.Thread(target=self.read, daemon=True).start()

        def read(self) -> None:
            assert self.process.stdout
            for line in self.process.stdout:
                self.lines.put(line)
            self.lines.put("")

        def step(self) -> dict[str, Any]:
            while ALIVE in (message := self.message()):
                pass
            return {**message, "done": ARTIFACT in message}

        def message(self) -> dict[str, Any]:
            try:
                line = self.lines.get(timeout=self.stall_seconds)
            except queue.Empty:
                self.end()
                raise JobError(f"no progress for {self.stall_seconds:.0f} s: the trial was stopped") from None
            if not line:
                self.process.wait()
                self.errors.seek(0)
                said = [line for line in self.errors.read().splitlines() if line.startswith("ctl: ")]
                code = self.process.returncode
                raise JobError(said[-1].removeprefix("ctl: ") if said else f"the trial ended with exit code {code}")
            found: dict[str, Any] = json.loads(line)
            return found

        def end(self) -> None:
            """In order, so that it lets go of its leases and its workers; else with all that it has started."""
            import psutil

            family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
            self.process.terminate()
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            for left in family:
                with suppress(psutil.NoSuchProcess):
                    left.kill()

        def cleanup(self) -> None:
            self.end()
            self.errors.close()

    return TrialProcess
