"""What it costs to know which sample is at a position: time at 0 and at 10^12, and memory, of one source and of many.

The rival is the permutation written out (`numpy.random.Generator.permutation`), which samplers of torch and Megatron
keep for each epoch: to start anywhere in an epoch it must be made whole.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.stages.tokens.mixing.mixture import Curriculum, MixedOrder
from pipelines.stages.tokens.order import Order

ROUNDS = 7
SAMPLES = 10_000_000
BATCH = 4096
FAR = 10**12


def seconds(function: Callable[[], Any]) -> float:
    """Median over the rounds, after one that does not count."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def peak_bytes(function: Callable[[], Any]) -> int:
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def mixed(sources: int) -> MixedOrder:
    """Sources of very different weights, which change once."""
    weights = [number**2 for number in range(1, sources + 1)]
    orders = [Order(SAMPLES, number) for number in range(sources)]
    return MixedOrder(orders, Curriculum([FAR // 2], [weights, weights[::-1]]))


def main() -> None:
    cases: list[tuple[str, Callable[[], Order | MixedOrder]]] = [("one source", lambda: Order(SAMPLES, 0))]
    cases += [(f"mixture of {k}, two phases", lambda k=k: mixed(k)) for k in (2, 12, 100)]  # type: ignore[misc]
    print(f"{'':28}{'position':>10}{'alone, us':>12}{f'in {BATCH}, us':>12}{'peak, kB':>10}")
    for name, make in cases:
        for position in (0, FAR):
            order = make()
            alone = seconds(lambda o=order, p=position: [o.sample(p + i) for i in range(100)]) / 100  # type: ignore[misc]
            many = seconds(lambda o=order, p=position: o.samples(p, p + BATCH)) / BATCH  # type: ignore[misc]
            peak = peak_bytes(lambda m=make, p=position: m().samples(p, p + BATCH))  # type: ignore[misc]
            print(f"{name:28}{position:>10.0e}{1e6 * alone:>12.2f}{1e6 * many:>12.3f}{peak / 1e3:>10.0f}")
    written = lambda: np.random.default_rng(0).permutation(SAMPLES)[:BATCH]  # noqa: E731
    print(
        f"written out ({SAMPLES:.0e} samples): {1e6 * seconds(written):.0f} us before the first of an epoch, "
        f"{peak_bytes(written) / 1e3:.0f} kB"
    )


if __name__ == "__main__":
    main()
