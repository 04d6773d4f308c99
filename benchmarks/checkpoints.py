"""What checkpoints cost the loop, and how soon a run goes on after the loss of a worker.

    python benchmarks/checkpoints.py [--model llama-15m] [--steps 60]

Stall: what the loop waited for checkpoints (to begin one, and for the copy before the next update) against what
writing them took in the background, as the run's own metrics say; and, all included, how much longer steps were while
one was being written, since the thread that writes takes its share of the machine. With one worker of one thread the
second core is free for it; with two it is not.

Recovery: from `kill -9` of a worker to the next step that no attempt had taken, against a cold start, from the call of
the stage on a running Ray cluster to the first step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training import SEQUENCE_LENGTH, make_tokens, spec_of
from cluster.control.runtime import connect
from cluster.core.build import build
from cluster.core.metrics import (
    CHECKPOINT_STALL_SECONDS,
    CHECKPOINT_WRITING_SECONDS,
    METRICS_FILE,
    STEP,
    TOKENS_PER_SECOND,
    read,
)
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import ScalingSpec
from pipelines.stages.training.checkpoints.checkpoints import Part

BATCH = 8


def scaling(workers: int, every_seconds: float) -> ScalingSpec:
    return ScalingSpec(
        num_workers=workers, cpus_per_worker=1, zero_stage=1, log_every=1, checkpoint_every_seconds=every_seconds
    )


def stall(store: Store, tokens: Artifact, model: str, steps: int, workers: int) -> None:
    spec = spec_of(model, steps, seed=10 + workers, batch=BATCH)
    found = build(spec, {"tokens": tokens}, store=store, scaling=scaling(workers, 5.0), name="bench")
    lines = read(found.location)[5:]
    waited = sum(line[CHECKPOINT_STALL_SECONDS] for line in lines)
    durations = [line[CHECKPOINT_WRITING_SECONDS] for line in lines]
    written = [new for old, new in zip([None, *durations], durations, strict=False) if new is not None and new != old]
    beside = {i for i, line in enumerate(lines) if line[CHECKPOINT_STALL_SECONDS] > 0}
    seconds = [BATCH * SEQUENCE_LENGTH / line[TOKENS_PER_SECOND] for line in lines]
    quiet = statistics.median(second for i, second in enumerate(seconds) if i not in beside)
    longer = sum(seconds[i] - quiet for i in beside)
    print(f"{workers} worker(s): {len(written)} checkpoints, {sum(written):.2f} s of writing in the background")
    print(f"  the loop waited {waited:.3f} s: {waited / sum(written):.3f} of the writing (bar: 0.05)")
    print(f"  steps beside a checkpoint were {longer:.2f} s longer in all: {longer / sum(written):.3f} of the writing")


def recovery(store: Store, tokens: Artifact, model: str, steps: int) -> None:
    spec = spec_of(model, steps, seed=20, batch=BATCH)
    told: dict[str, float] = {}
    pause = threading.Event()

    def place() -> Path | None:
        return next((path.parent for path in Path(store.root.path).glob(f".staging/pretrain-*/{METRICS_FILE}")), None)

    def last() -> int:
        at = place()
        lines = (
            [line for line in at.joinpath(METRICS_FILE).read_bytes().splitlines() if line.endswith(b"}")] if at else []
        )
        return len(lines)

    def kill() -> None:
        while last() < 1:
            pause.wait(0.005)
        told["cold"] = time.monotonic() - began
        at = place()
        assert at
        while not (parts := sorted(at.glob(".train/checkpoints/step-*/00001-of-00002.part"))):
            pause.wait(0.005)
        step = Part.decode(parts[-1].read_bytes()).step
        workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        taken, record = last(), at.joinpath(METRICS_FILE)
        inode = record.stat().st_ino
        workers[-1].kill()
        killed = time.monotonic()
        while record.stat().st_ino == inode:  # the new attempt writes the record anew, up to its checkpoint
            pause.wait(0.005)
        base = last()
        while last() <= base:
            pause.wait(0.005)
        told["recovery"] = time.monotonic() - killed
        print(f"killed after step {taken}, the checkpoint was of step {step}")

    thread = threading.Thread(target=kill, daemon=True)
    began = time.monotonic()
    thread.start()
    found: Any = build(spec, {"tokens": tokens}, store=store, scaling=scaling(2, 1.0), name="bench")
    thread.join()
    assert [line[STEP] for line in read(found.location)] == list(range(1, steps + 1))
    print(
        f"cold start {told['cold']:.1f} s, from kill -9 to the next step {told['recovery']:.1f} s: "
        f"{told['recovery'] / told['cold']:.2f} (bar: 1.5)"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="llama-15m")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    os.environ["RAY_ADDRESS"] = "local"
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        tokens = make_tokens(store)
        connect(scaling(2, 1.0))
        for workers in (1, 2):
            stall(store, tokens, arguments.model, arguments.steps, workers)
        recovery(store, tokens, arguments.model, arguments.steps)


if __name__ == "__main__":
    main()
