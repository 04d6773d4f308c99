"""Which rank holds up the others: the time that each spends on work of its own, before ranks wait for each other.

Training in lockstep, a slow rank makes all slow, and wall time says nothing of which. What a rank does alone is to
fetch its batch and to run the forward pass, so that is what is timed. Where the forward pass itself waits for other
ranks (for weights under ZeRO 3, for results where sequences or layers are shared), only the fetching still tells.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist

from cluster.core import metrics


class Stopwatch:
    """Adds up the time that a module's forward passes take in training: on a GPU the device's, else wall time."""

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        self.seconds = 0.0
        self._on_gpu = device.type == "cuda"
        self._began: Any = None
        self._events: list[tuple[Any, Any]] = []
        module.register_forward_pre_hook(lambda module, inputs: self._start())
        module.register_forward_hook(lambda module, inputs, output: self._stop(module.training))

    def _start(self) -> None:
        self._began = self._event() if self._on_gpu else time.perf_counter()

    def _stop(self, training: bool) -> None:
        if not training:
            return
        if self._on_gpu:
            self._events.append((self._began, self._event()))
        else:
            self.seconds += time.perf_counter() - self._began

    def _event(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self) -> float:
        """Seconds since the last lap."""
        if self._events:
            self._events[-1][1].synchronize()
            self.seconds += sum(first.elapsed_time(last) for first, last in self._events) / 1000
            self._events.clear()
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class Stragglers:
    """The ranks' mean times a step between two log lines. All ranks call `lap` together."""

    def __init__(self, module: torch.nn.Module, device: torch.device, factor: float) -> None:
        """`module`: what runs the forward pass. A rank above `factor` times the median is named."""
        self._watch = Stopwatch(module, device)
        self._factor = factor
        self._steps = 0
        self._waited = 0.0
        self._told: set[int] = set()

    def fetched(self, seconds: float) -> None:
        """A step begins, whose batch took so long to come."""
        self._steps += 1
        self._waited += seconds

    def lap(self) -> tuple[dict[str, Any], list[str]]:
        """The fields of a metrics line, and what to tell of a rank that is slow for the first time."""
        own = (self._watch.lap() + self._waited) / max(1, self._steps)
        self._steps, self._waited = 0, 0.0
        times = torch.zeros(dist.get_world_size(), dtype=torch.float64)
        times[dist.get_rank()] = own
        dist.all_reduce(times)  # an all-gather of one number a rank, on every backend
        line = judge(times.tolist(), self._factor)
        rank = line[metrics.STRAGGLER_RANK]
        if rank is None or rank in self._told:
            return line, []
        self._told.add(rank)
        seconds, ratio = line[metrics.RANK_SECONDS][rank], line[metrics.STRAGGLER_RATIO]
        return line, [f"rank {rank} is slow: {seconds:.3g} s a step before the exchange, {ratio:.1f} x the median"]


def judge(seconds: list[float], factor: float) -> dict[str, Any]:
    """The fields of a metrics line from each rank's seconds a step; the slowest is named above `factor` x the median.

    Of an even number of ranks the lower of both medians counts: of two ranks, the faster.
    """
    median, slowest = statistics.median_low(seconds), max(seconds)
    ratio = slowest / median if median else 1.0
    return {
        metrics.RANK_SECONDS: [round(each, 6) for each in seconds],
        metrics.STRAGGLER_RANK: seconds.index(slowest) if ratio > factor else None,
        metrics.STRAGGLER_RATIO: round(ratio, 3),
    }
