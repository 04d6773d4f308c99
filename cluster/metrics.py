"""Training metrics: one vocabulary of names, and three places they go: metrics.jsonl, TensorBoard, Ray's Prometheus.

metrics.jsonl is the record; the other two are views that a run does without where their packages are missing. A
resumed run cuts the record back to its checkpoint, so that every step stands in it once.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.location import Location

METRICS_FILE = "metrics.jsonl"
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
DATA_WAIT_FRACTION = "data_wait_fraction"  # share of the time spent waiting for batches
MEMORY_BYTES = "memory_bytes"  # peak of rank 0: device memory on GPUs, else resident memory
ETA_SECONDS = "eta_seconds"
CHECKPOINT_STALL_SECONDS = "checkpoint_stall_seconds"  # that the loop waited for checkpoints since the line before
CHECKPOINT_WRITING_SECONDS = "checkpoint_writing_seconds"  # that the last one took in the background; null before it
REWARD = "reward"  # RL: mean over the completions of this step
KL = "kl"  # RL: nats per token between the policy and the model it started from (k3 estimate)
VALIDATION_LOSS = "validation_loss"  # nats per token; only in lines of steps that validated
# What depends on the clock and the machine; everything else is the same in every run of the same spec.
TIMED = frozenset({
    TOKENS_PER_SECOND, TOKENS_PER_SECOND_PER_DEVICE, MFU, DATA_WAIT_FRACTION, MEMORY_BYTES, ETA_SECONDS,
    CHECKPOINT_STALL_SECONDS, CHECKPOINT_WRITING_SECONDS,
})  # fmt: skip
SHOWN = (LOSS, REWARD, KL, TOKENS_PER_SECOND, ETA_SECONDS)  # while it runs


def read(place: Location) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, oldest first; a last line that was cut off in writing is left out."""
    if not place.exists(METRICS_FILE):
        return []
    whole, _, _ = place.read_bytes(METRICS_FILE).rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


class MetricsLog:
    """Writer of metrics.jsonl and its two views, used by one process of a run.

    On a local file system every line is there at once; on an object store, which cannot append, at each `flush`.
    """

    def __init__(self, place: Location, run: str, step: int) -> None:
        """Go on after `step`: later lines, which an attempt that died had written, are dropped."""
        self._place = place
        self._run = run
        self._lines = [line for line in read(place) if line[STEP] <= step]
        self._flush_all()
        self._file = place.open(METRICS_FILE, "ab", buffering=0) if place.is_local else None
        self._tensorboard = _tensorboard(place, step)
        self._gauges: dict[str, Any] = {}

    def write(self, line: dict[str, Any]) -> None:
        if self._file:
            self._file.write(_encode(line))
        else:
            self._lines.append(line)
        for name, value in line.items():
            if name != STEP and value is not None:
                if self._tensorboard:
                    self._tensorboard.add_scalar(f"train/{name}", value, line[STEP])
                self._gauge(name, value)

    def flush(self) -> None:
        """Make everything written so far survive this process."""
        if not self._file:
            self._flush_all()
        if self._tensorboard:
            self._tensorboard.flush()

    def close(self) -> None:
        self.flush()
        if self._file:
            self._file.close()
        if self._tensorboard:
            self._tensorboard.close()

    def _flush_all(self) -> None:
        self._place.write_bytes(METRICS_FILE, b"".join(map(_encode, self._lines)))

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


def _encode(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _tensorboard(place: Location, step: int) -> Any:
    """A TensorBoard writer beside the record (local file systems only), or None where it is not installed."""
    if not place.is_local:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(place.path / TENSORBOARD_FOLDER), purge_step=step + 1)
