"""Builds the tiny model of test_stage in a process of its own: `run_once.py STORE STEPS [SCALING as JSON]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from cluster.core.build import build
from cluster.core.storage.store import Store
from pipelines.specs import ScalingSpec
from tests.training.tiny import make_tokens, pretrain

# Often enough that a run of seconds has checkpoints to be killed after.
SCALING = ScalingSpec(num_workers=2, log_every=10, checkpoint_every_seconds=0.5)

if __name__ == "__main__":
    store = Store(sys.argv[1])
    build(
        pretrain(int(sys.argv[2]), optimizer="muon"),
        {"tokens": make_tokens(store)},
        store=store,
        scaling=msgspec.structs.replace(SCALING, **json.loads(sys.argv[3] if len(sys.argv) > 3 else "{}")),
        name="tiny",
        notice=lambda text: print(text, flush=True),
    )
