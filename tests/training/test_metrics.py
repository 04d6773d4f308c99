"""metrics.jsonl stays one line a step over attempts; rates and MFU are what the formulas say."""

from __future__ import annotations

from pathlib import Path

import torch

from cluster.location import Location
from cluster.metrics import MetricsLog, read
from pipelines.training.throughput import flops_per_token, peak_flops


def test_a_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    for place in (Location(tmp_path / "run"), Location(f"memory://{tmp_path.name}")):
        place.remove()
        first = MetricsLog(place, "run", step=0)
        for step in (1, 2, 3):
            first.write({"step": step, "loss": float(step)})
        first.flush()
        if place.is_local:  # killed while it wrote a fourth line
            with place.open("metrics.jsonl", "ab") as file:
                file.write(b'{"step": 4, "lo')
        second = MetricsLog(place, "run", step=2)
        second.write({"step": 3, "loss": 30.0})
        second.close()
        assert [(line["step"], line["loss"]) for line in read(place)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_flops_follow_the_palm_formula() -> None:
    # 6 N + 12 L H Q T for GPT-2 small at 1024 tokens.
    assert flops_per_token(124_439_808, 12, 768, 1024) == 6 * 124_439_808 + 12 * 12 * 768 * 1024


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
