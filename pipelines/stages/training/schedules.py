"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from pipelines.specs import TrainingSpec


def learning_rate_factor(step: int, steps: int, spec: TrainingSpec) -> float:
    """Learning rate of a step (counted from 0, of `steps`) as a fraction of its peak.

    Linear warm-up to 1, then the schedule falls to `min_learning_rate_fraction`, which the step after the last would
    have. `wsd` (warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395) falls linearly over
    the last `decay_fraction` of the steps after warm-up; `cosine` is Loshchilov and Hutter's (arXiv:1608.03983).
    """
    warmup = min(spec.steps_of_warmup(steps), steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if spec.schedule == "constant":
        return 1.0
    if spec.schedule == "linear":
        left = 1.0 - done
    elif spec.schedule == "cosine":
        left = 0.5 * (1.0 + math.cos(math.pi * done))
    else:
        left = min(1.0, (1.0 - done) / spec.decay_fraction) if spec.decay_fraction else 1.0
    floor = spec.min_learning_rate_fraction
    return floor + (1.0 - floor) * left
