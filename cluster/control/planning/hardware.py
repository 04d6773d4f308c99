"""What a training worker computes on: this machine, or a GPU by the name of its data sheet.

A plan made on a laptop for a cluster of GPUs names the GPU; where nothing is named, this machine is measured.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.core.errors import NotReadyError, UsageError, nearest

if TYPE_CHECKING:
    from cluster.core.specs.scaling import ScalingSpec


# Dense peak of tensor cores in bf16 (of the T4, which has none, in fp16), FLOP/s, from the vendors' data sheets, by
# words of the device's name; the first that fits counts. MFU is of this peak in every precision.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200 NVL": 835.5e12,
    "H200": 989.5e12,
    "GH200": 989.5e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835.5e12,
    "H100": 989.5e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090$": 165.2e12,
    "T4": 65e12,
    "MI300X": 1307.4e12,
}


def peak_of(name: str) -> float | None:
    """Peak FLOP/s of a device by its name as PyTorch gives it, such as `NVIDIA H100 80GB HBM3`; None if not known."""
    return next((peak for words, peak in PEAK_FLOPS.items() if re.search(rf"\b{words}(?!\w)", name)), None)


@dataclass(frozen=True)
class DataSheet:
    """Memory and dense peak rates of a GPU, as NVIDIA's data sheets have them (without sparsity)."""

    memory_bytes: float
    bf16_flops: float
    fp32_flops: float  # without TF32, which torch leaves switched off


DATA_SHEETS = {
    "h200": DataSheet(141e9, PEAK_FLOPS["H200"], 67e12),
    "h100": DataSheet(80e9, PEAK_FLOPS["H100"], 67e12),
    "a100-80gb": DataSheet(80e9, PEAK_FLOPS["A100"], 19.5e12),
    "a100-40gb": DataSheet(40e9, PEAK_FLOPS["A100"], 19.5e12),
    "l40s": DataSheet(48e9, PEAK_FLOPS["L40S"], 91.6e12),
    "l4": DataSheet(24e9, PEAK_FLOPS["L4"], 30.3e12),
    "a10": DataSheet(24e9, PEAK_FLOPS["A10"], 31.2e12),
}
# The lower end of what torchtitan reports for Llama 3 8B in bf16 on 8 H100 (33 to 39 %); not measured here.
GPU_EFFICIENCY = 0.33
# What is no matrix product takes as long as its activations are many: bytes that the backward pass needs, made and used
# up per second and thread. Chosen by two figures of benchmarks/RESULTS.md (llama-15m, and the demo's llama-1m).
CPU_ACTIVATION_BYTES_PER_SECOND = 0.85e9
MEASURE_SECONDS = 0.2
MATRIX = 512

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Hardware:
    """What each worker has. `threads` is 0 on a GPU, beside which there is main memory (0: not known how much).
    `flops_per_second` is of a CPU and in fp32 (0: measured when it is asked for)."""

    name: str
    memory_bytes: int
    threads: int = 0
    sheet: DataSheet | None = None
    host_memory_bytes: int = 0
    flops_per_second: float = 0.0

    @property
    def on_cpu(self) -> bool:
        return self.threads > 0

    def seconds(self, flops: float, activation_bytes: float, precision: str) -> float | None:
        """Time of so much training on one worker; None for a GPU without a data sheet. On a CPU this measures.

        A CPU's rate is taken in fp32 whatever the precision: large products are several times as fast in bf16, but
        small models trained 1.2 times as fast.
        """
        if self.on_cpu:
            return flops / (self.flops_per_second or measured_flops(self.threads)) + activation_bytes / (
                self.threads * CPU_ACTIVATION_BYTES_PER_SECOND
            )
        if self.sheet is None:
            return None
        peak = self.sheet.fp32_flops if precision == "fp32" else self.sheet.bf16_flops
        return flops / (GPU_EFFICIENCY * peak)


def named(name: str) -> Hardware:
    """A GPU of the table, `h100`, or one with so many GB of main memory for its worker, `h100:256`.

    Raises UsageError with the nearest name for one that is not there.
    """
    gpu, colon, host = name.partition(":")
    if gpu not in DATA_SHEETS:
        raise UsageError(f"--hardware {name!r}: not in the table", nearest(gpu, list(DATA_SHEETS)))
    if colon and not re.fullmatch(r"[1-9]\d*", host):
        raise UsageError(f"--hardware {name!r}: no number of GB", f"Main memory of a worker, such as {gpu}:256.")
    sheet = DATA_SHEETS[gpu]
    return Hardware(gpu, int(sheet.memory_bytes), sheet=sheet, host_memory_bytes=int(host or 0) * 10**9)


def here(scaling: ScalingSpec) -> Hardware:
    """What each of `scaling.num_workers` workers has when all of them run on this machine.

    Raises NotReadyError where GPUs are asked for and this machine has none.
    """
    memory = memory_bytes() // scaling.num_workers
    if scaling.gpus_per_worker:
        return _gpu(memory)
    cores = len(os.sched_getaffinity(0))
    threads = max(1, min(int(scaling.cpus_per_worker), cores))
    return Hardware(f"this machine, {cores} cores for {scaling.num_workers} workers", memory, threads)


def memory_bytes() -> int:
    """Memory of this machine, or of the control group that this process is confined to."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in CGROUP_LIMITS:
        if path.exists() and (text := path.read_text().strip()).isdigit():
            found.append(int(text))
    return min(found)


def _gpu(host_memory_bytes: int) -> Hardware:
    import torch

    if not torch.cuda.is_available():
        raise NotReadyError("scaling.gpus_per_worker: there is no GPU here", "Name the cluster's with --hardware.")
    properties = torch.cuda.get_device_properties(0)
    words = properties.name.lower().replace("-", " ").split()
    sheet = next((sheet for name, sheet in DATA_SHEETS.items() if name.split("-")[0] in words), None)
    return Hardware(properties.name, properties.total_memory, sheet=sheet, host_memory_bytes=host_memory_bytes)


def measured_flops(threads: int) -> float:
    """FLOP/s in fp32 of a matrix product of 512 by 512 on so many threads: the best of those that fit into 0.2 s."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left = torch.ones(MATRIX, MATRIX)
        left @ left
        best, started = float("inf"), time.perf_counter()
        while (began := time.perf_counter()) - started < MEASURE_SECONDS:
            left @ left
            best = min(best, time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return 2.0 * MATRIX**3 / best
