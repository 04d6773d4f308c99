"""How fast and how well a device is used: rates between two log lines, and model FLOPs utilization."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from cluster import metrics

# Dense bf16 peak, FLOP/s, from NVIDIA's data sheets, by a part of the device's name; the first that fits counts.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}


def peak_flops(device: torch.device) -> float | None:
    """Peak FLOP/s of a device, or None where it is not known (every CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def flops_per_token(parameters: int, layers: int, hidden_size: int, sequence_length: int) -> float:
    """Training FLOPs of one token: 6 N + 12 L H Q T, H Q the hidden size (PaLM, arXiv:2204.02311, appendix B)."""
    return 6.0 * parameters + 12.0 * layers * hidden_size * sequence_length


def memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: on the device for a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class Clock:
    """Rates since the last `lap`. `waited` adds up seconds spent waiting for data."""

    device: torch.device
    num_devices: int
    flops_per_token: float
    waited: float = 0.0
    _step: int = 0
    _tokens: int = 0
    _started: float = field(default_factory=time.monotonic)

    def lap(self, step: int, steps: int, tokens: int) -> dict[str, Any]:
        """The rate fields of a metrics line after `step` of `steps` steps and `tokens` tokens; starts the next lap."""
        now = time.monotonic()
        seconds = max(now - self._started, 1e-9)
        rate = (tokens - self._tokens) / seconds
        peak = peak_flops(self.device)
        line = {
            metrics.TOKENS_PER_SECOND: round(rate, 1),
            metrics.TOKENS_PER_SECOND_PER_DEVICE: round(rate / self.num_devices, 1),
            metrics.MFU: round(rate * self.flops_per_token / (peak * self.num_devices), 4) if peak else None,
            metrics.DATA_WAIT_FRACTION: round(self.waited / seconds, 4),
            metrics.MEMORY_BYTES: memory_bytes(self.device),
            metrics.ETA_SECONDS: round((steps - step) * seconds / max(1, step - self._step), 1),
        }
        self.restart(step, tokens)
        return line

    def restart(self, step: int, tokens: int) -> None:
        """Begin a lap here: what came before (a checkpoint's load, a validation) does not count as training."""
        self._step, self._tokens, self._started, self.waited = step, tokens, time.monotonic(), 0.0
