"""Training metrics: one vocabulary of names, and where they go: metrics.jsonl, TensorBoard, Ray's Prometheus, trackers.

metrics.jsonl is the record; the others are views that a run does without where their packages are missing. A resumed
run cuts the record back to its checkpoint, so that every step stands in it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.core.storage import lines
from cluster.core.storage.lines import LineFile
from cluster.core.storage.location import Location
from cluster.core.trackers import Tracker

METRICS_FILE = "metrics.jsonl"
STATISTICS_FILE = "statistics.jsonl"  # pipelines/stages/training/telemetry/block_statistics.py says what is in a line
TENSORBOARD_FOLDER = "tensorboard"

# Fields of a line of metrics.jsonl. A figure that cannot be had (MFU on a CPU) is null, never left out.
STEP = "step"  # optimizer steps done
LOSS = "loss"  # nats per token, mean over the global batch of this step
GRAD_NORM = "grad_norm"  # global, before clipping
LEARNING_RATE = "learning_rate"  # of AdamW, in this step
TOKENS = "tokens"  # trained on so far
TOKENS_PER_SECOND = "tokens_per_second"  # since the line before, all devices
TOKENS_PER_SECOND_PER_DEVICE = "tokens_per_second_per_device"
MFU = "mfu"  # model FLOPs utilization, 0 to 1; null on CPUs
HFU = "hfu"  # hardware FLOPs utilization: with what activation checkpointing computes twice; null on CPUs
DATA_WAIT_FRACTION = "data_wait_fraction"  # share of the time spent waiting for batches
MEMORY_BYTES = "memory_bytes"  # peak of rank 0: device memory in tensors on GPUs, else resident memory
MEMORY_RESERVED_BYTES = "memory_reserved_bytes"  # peak of rank 0: what PyTorch took from the GPU; null on CPUs
ETA_SECONDS = "eta_seconds"
CHECKPOINT_STALL_SECONDS = "checkpoint_stall_seconds"  # that the loop waited for checkpoints since the line before
CHECKPOINT_WRITING_SECONDS = "checkpoint_writing_seconds"  # that the last one took in the background; null before it
REWARD = "reward"  # RL: mean over the completions of this step
KL = "kl"  # RL: nats per token between the policy and the model it started from (k3 estimate)
VALIDATION_LOSS = "validation_loss"  # nats per token; only in lines of steps that validated
SKIPPED_STEPS = "skipped_steps"  # so far, with on_divergence=skip; a line of such a step has loss and norm as found
RANK_SECONDS = "rank_seconds"  # each rank's mean seconds a step on work of its own (batch, forward pass), as a list
STRAGGLER_RANK = "straggler_rank"  # the slowest rank, where it is slower than scaling.straggler_factor allows, or null
STRAGGLER_RATIO = "straggler_ratio"  # the slowest rank's seconds over the median's
NOTICES = "notices"  # sentences for people, shown once while it runs; only in lines that have any
# What depends on the clock and the machine; everything else is the same in every run of the same spec.
TIMED = frozenset({
    TOKENS_PER_SECOND, TOKENS_PER_SECOND_PER_DEVICE, MFU, HFU, DATA_WAIT_FRACTION, MEMORY_BYTES, MEMORY_RESERVED_BYTES,
    ETA_SECONDS, CHECKPOINT_STALL_SECONDS, CHECKPOINT_WRITING_SECONDS, RANK_SECONDS, STRAGGLER_RANK, STRAGGLER_RATIO,
    NOTICES,
})  # fmt: skip
SHOWN = (LOSS, REWARD, KL, ETA_SECONDS, TOKENS_PER_SECOND, GRAD_NORM, MFU, VALIDATION_LOSS)  # while it runs


def read(place: Location, file: str = METRICS_FILE) -> list[dict[str, Any]]:
    """The lines of a record, oldest first; a last line that was cut off in writing is left out."""
    return lines.read(place, file)


def _go_on(place: Location, file: str, step: int) -> LineFile:
    """A record to go on with after `step`: later lines, which an attempt that died had written, are dropped."""
    return LineFile(place, file, lambda line: line[STEP] <= step)


class MetricsLog:
    """Writer of metrics.jsonl and its views, and of statistics.jsonl; used by one process of a run."""

    def __init__(self, place: Location, run: str, step: int, trackers: Sequence[Tracker] = ()) -> None:
        """Go on after `step`: later lines, which an attempt that died had written, are dropped."""
        self._place, self._step = place, step
        self._run = run
        self._record = _go_on(place, METRICS_FILE, step)
        self._statistics = _go_on(place, STATISTICS_FILE, step) if place.exists(STATISTICS_FILE) else None
        self._tensorboard = _tensorboard(place, step)
        self._gauges: dict[str, Any] = {}
        self._trackers = list(trackers)

    def write(self, line: dict[str, Any]) -> None:
        """Write a line to the record and to all views. A tracker that fails is told of in the line and left out."""
        figures = {n: v for n, v in line.items() if n != STEP and isinstance(v, (int, float))}
        if failed := self._track(line[STEP], figures):
            line = {**line, NOTICES: [*line.get(NOTICES, ()), *failed]}
        self._record.append(line)
        for name, value in figures.items():
            if self._tensorboard:
                self._tensorboard.add_scalar(f"train/{name}", value, line[STEP])
            self._gauge(name, value)

    def write_statistics(self, line: dict[str, Any]) -> None:
        """Write a line to statistics.jsonl, and its figures to TensorBoard."""
        if self._statistics is None:
            self._statistics = _go_on(self._place, STATISTICS_FILE, self._step)
        self._statistics.append(line)
        if self._tensorboard:
            for block, figures in line["blocks"].items():
                for name, value in figures.items():
                    if value is not None:
                        self._tensorboard.add_scalar(f"{name}/{block}", value, line[STEP])

    def flush(self) -> None:
        """Make everything written so far survive this process."""
        self._record.flush()
        if self._statistics:
            self._statistics.flush()
        if self._tensorboard:
            self._tensorboard.flush()

    def close(self) -> None:
        self.flush()
        if self._tensorboard:
            self._tensorboard.close()
        for tracker in self._trackers:
            tracker.close()

    def _track(self, step: int, figures: dict[str, float]) -> list[str]:
        """Pass figures on to the trackers; return what went wrong."""
        wrong = []
        for tracker in list(self._trackers):
            if error := tracker.log(step, figures):
                self._trackers.remove(tracker)
                wrong.append(error)
        return wrong

    def _gauge(self, name: str, value: float) -> None:
        """Show a figure on Ray's dashboard and its Prometheus port, where this process belongs to a cluster."""
        import ray
        from ray.util.metrics import Gauge

        if not ray.is_initialized():
            return
        if name not in self._gauges:
            self._gauges[name] = Gauge(f"trunkline_train_{name}", tag_keys=("run",))
            self._gauges[name].set_default_tags({"run": self._run})
        self._gauges[name].set(value)


def _tensorboard(place: Location, step: int) -> Any:
    """A TensorBoard writer beside the record (local file systems only), or None where it is not installed."""
    if not place.is_local:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(place.path / TENSORBOARD_FOLDER), purge_step=step + 1)
