"""Reward functions as users write them: their numbers are of every kind, and one of them has none in training."""

from __future__ import annotations

import threading

import numpy as np

from pipelines.stages.alignment.rewards.sample import Sample


def letters(sample: Sample) -> int:
    return len(sample.answer)


def ended(sample: Sample) -> bool:
    return sample.finished


def share(sample: Sample) -> np.float32:
    return np.float32(min(1.0, len(sample.answer) / 40))


def hangs(sample: Sample) -> float:
    threading.Event().wait()
    return 0.0


def none(sample: Sample) -> float | None:
    return None if "return" in sample.answer else 0.5
