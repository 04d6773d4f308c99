"""Reward functions as users write them: their numbers are of every kind, and one of them has none in training."""

from __future__ import annotations

import numpy as np

from pipelines.stages.alignment.rewards.sample import Sample


def letters(sample: Sample) -> int:
    return len(sample.answer)


def ended(sample: Sample) -> bool:
    return sample.finished


def share(sample: Sample) -> np.float32:
    return np.float32(min(1.0, len(sample.answer) / 40))


def none(sample: Sample) -> float | None:
    return 0.5 if len(sample.answer) % 2 else None


def all_of_it(sample: Sample) -> int:
    """1 of a whole answer and 2 of one that was cut off, where all that a sample has is as it should be."""
    assert (sample.answer, sample.reference, sample.request) == ("good fine", "1 2", "Say.")
    if sample.finish_reason == "stop":
        assert (sample.text, sample.tokens) == ("good fine <end>", (1, 2, 0))
        return 1
    assert (sample.text, sample.tokens) == ("good fine", (1, 2))
    return 2


def asks_on(sample: Sample) -> str | None:
    """An environment: wants to hear more, once."""
    return "Go on." if len(sample.messages) == 1 else None


def asks_back(sample: Sample) -> str | None:
    """An environment: says again what was said, with a question mark, until the model is done."""
    if sample.answer == "fail":
        raise RuntimeError("no")
    return None if sample.answer in ("done", "oh") else f"{sample.answer}?"


def each_line(sample: Sample, steps: list[str], factor: float = 1.0) -> list[float]:
    """Of each line its letters, without the blanks."""
    return [factor * sum(letter.isalpha() for letter in step) for step in steps]


def one_too_few(sample: Sample, steps: list[str]) -> list[float]:
    return [1.0] * (len(steps) - 1)


def not_finite(sample: Sample, steps: list[str]) -> list[float]:
    return [float("nan")] * len(steps)
