"""How fast and how well a device is used: rates between two log lines, FLOPs utilization, memory."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from cluster.control.planning.hardware import peak_of
from cluster.core import metrics


def peak_flops(device: torch.device) -> float | None:
    """Peak FLOP/s of a device, or None where it is not known (every CPU)."""
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def flops_per_token(parameters: int, layers: int, hidden_size: int, sequence_length: int) -> float:
    """Training FLOPs of one token: 6 N + 12 L H Q T, H Q the hidden size (PaLM, arXiv:2204.02311, appendix B).

    What others count: Megatron-LM (arXiv:2104.04473, section 5.1) has 72 L h^2 (1 + T/(6h)) + 6 V h for a GPT without
    recomputation, which is the same where N = 12 L h^2 + V h, that is without biases, norms and positions, and with
    tied embeddings. Chinchilla (arXiv:2203.15556, appendix F) adds the softmaxes, and the embeddings as if looking
    them up were a product with them (6 V h). N here is every parameter, so that untied embeddings count 6 V h too
    much, as in Chinchilla. No one halves the attention's share for the causal mask, and neither is it done here.
    """
    return 6.0 * parameters + 12.0 * layers * hidden_size * sequence_length


def hardware_flops_per_token(model_flops: float, recomputed: bool) -> float:
    """What the devices work off for one token: with activation checkpointing of every block, a third forward pass.

    Backward costs twice forward, so 4/3 of the model's FLOPs (Megatron-LM, arXiv:2104.04473: 96 where 72 are the
    model's; the little that is not recomputed, the logits, is counted as if it were). Utilization of hardware (HFU)
    is that over the peak, utilization by the model (MFU) leaves the recomputation out (PaLM, appendix B).
    """
    return model_flops * 4 / 3 if recomputed else model_flops


def memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: in tensors on the device for a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reserved_bytes(device: torch.device) -> int | None:
    """Peak of what PyTorch's allocator took from a GPU, fragments and cache included; None on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


@dataclass
class Clock:
    """Rates since the last `lap`. `waited` adds up seconds spent waiting for data."""

    device: torch.device
    num_devices: int
    flops_per_token: float  # of the model
    recomputed: bool = False  # activations are, in the backward pass
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
        utilization = rate * self.flops_per_token / (peak * self.num_devices) if peak else 0.0
        line = {
            metrics.TOKENS_PER_SECOND: round(rate, 1),
            metrics.TOKENS_PER_SECOND_PER_DEVICE: round(rate / self.num_devices, 1),
            metrics.MFU: round(utilization, 4) if peak else None,
            metrics.HFU: round(hardware_flops_per_token(utilization, self.recomputed), 4) if peak else None,
            metrics.DATA_WAIT_FRACTION: round(self.waited / seconds, 4),
            metrics.MEMORY_BYTES: memory_bytes(self.device),
            metrics.MEMORY_RESERVED_BYTES: reserved_bytes(self.device),
            metrics.ETA_SECONDS: round((steps - step) * seconds / max(1, step - self._step), 1),
        }
        self.restart(step, tokens)
        return line

    def restart(self, step: int, tokens: int) -> None:
        """Begin a lap here: what came before (a checkpoint's load, a validation) does not count as training."""
        self._step, self._tokens, self._started, self.waited = step, tokens, time.monotonic(), 0.0
