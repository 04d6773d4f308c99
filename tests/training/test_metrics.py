"""metrics.jsonl stays one line a step over attempts; rates and MFU are what the formulas say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cluster.core.metrics import METRICS_FILE, MetricsLog, read
from cluster.core.storage.lines import Follower
from cluster.core.storage.location import Location
from pipelines.stages.training.telemetry.throughput import (
    flops_per_token,
    hardware_flops_per_token,
    peak_flops,
    peak_of,
)


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


def read_bytes() -> int:
    """Bytes that this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_following_costs_what_is_new(tmp_path: Path) -> None:
    place, following = Location(tmp_path), Follower(Location(tmp_path), METRICS_FILE)
    assert following.new() == []
    lines = [{"step": step, "note": "x" * 1000} for step in range(1, 401)]
    before = read_bytes()
    found = []
    for line in lines:
        with place.open("metrics.jsonl", "ab") as file:
            file.write(json.dumps(line).encode() + b"\n" + b'{"step": 0, "cut o')  # a line that is being written
        found += following.new()
        with place.open("metrics.jsonl", "r+b") as file:
            file.truncate(place.size_bytes("metrics.jsonl") - 18)
        assert following.new() == []
    assert found == lines
    # A look takes the line before it, too, and this test reads a few kilobytes of /proc; anew, it would be 160 MB.
    assert read_bytes() - before < 10 * place.size_bytes("metrics.jsonl")


@pytest.mark.heavy
@pytest.mark.parametrize("scheme", ["", "memory://", "s3://"])
def test_a_record_that_is_cut_back_is_followed_anew(
    scheme: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if scheme == "s3://":
        request.getfixturevalue("s3_server")
        place = Location("s3://following/run")
        place.fs.mkdir("following")
    else:
        place = Location(f"{scheme}{tmp_path}/run")
    following = Follower(place, METRICS_FILE)
    first = MetricsLog(place, "run", step=0)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": float(step)})
        first.flush()
        assert [line["step"] for line in following.new()] == [step]
        assert following.new() == []
    second = MetricsLog(place, "run", step=1)  # shorter than before
    assert [line["step"] for line in following.new()] == [1]
    for step in (2, 3, 4):
        second.write({"step": step, "loss": step * 10.5})
    second.flush()
    assert [line["step"] for line in following.new()] == [2, 3, 4]
    third = MetricsLog(place, "run", step=1)
    for step in (2, 3, 4, 5):  # cut back and grown between two looks
        third.write({"step": step, "loss": step * 111.25})
    third.close()
    assert following.new() == read(place)


def test_flops_follow_the_palm_formula() -> None:
    # 6 N + 12 L H Q T for GPT-2 small at 1024 tokens.
    assert flops_per_token(124_439_808, 12, 768, 1024) == 6 * 124_439_808 + 12 * 12 * 768 * 1024


def test_palm_and_megatron_agree_on_a_gpt() -> None:
    # Narayanan et al., arXiv:2104.04473, equation 3: 96 B T L h^2 (1 + T/(6h) + V/(16 L h)) with recomputation, where
    # 24 of the 96 are the second forward pass and the logits' share, 6 V h, has none.
    layers, width, vocab, length = 12, 768, 50257, 1024
    megatron = 72 * layers * width**2 * (1 + length / (6 * width)) + 6 * vocab * width
    parameters = 12 * layers * width**2 + vocab * width
    assert flops_per_token(parameters, layers, width, length) == pytest.approx(megatron, rel=1e-12)
    recomputed = 96 * layers * width**2 * (1 + length / (6 * width) + vocab / (16 * layers * width))
    model = flops_per_token(parameters, layers, width, length)
    assert hardware_flops_per_token(model, recomputed=True) == pytest.approx(recomputed + 2 * vocab * width, rel=1e-12)
    assert hardware_flops_per_token(model, recomputed=False) == model


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("Tesla T4", 65e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("AMD Instinct MI300X", 1307.4e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_device_has_its_own_peak(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
