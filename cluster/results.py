"""Results of an evaluation: what every evaluating stage writes, so that any two of them can be compared.

`results.json` is one `Results`; `samples.jsonl` holds one `Outcome` a line, a question of a metric. Outcomes are what
makes two models comparable in pairs: the same question, answered by both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.jsonl"
Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One metric of one task. `stderr` and the interval are None where the metric has none."""

    task: str
    metric: str
    value: float
    stderr: float | None = None
    ci_low: float | None = None
    """Lower end of the 95 % confidence interval."""
    ci_high: float | None = None
    ci_method: str = ""
    """How the interval was made: `wilson`, `normal` (value and 1.96 stderr to each side) or `bootstrap`."""
    samples: int
    """Questions (or texts) that the value was taken over."""
    higher_is_better: bool = True
    num_fewshot: int = 0
    task_version: str = ""


class Results(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of `results.json`. `model` is the ref of the artifact that was evaluated."""

    model: str
    results: list[Result]
    data_sha256: dict[str, str] = {}
    """Task (or set of texts): digest of the data that it was taken over."""
    versions: dict[str, str] = {}
    """Packages that made the figures."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one question. `value` is its share in the metric, such as 1.0 for a right answer."""

    task: str
    metric: str
    id: str
    """The same question has the same id whatever the model: a position in the data, or a digest."""
    value: float
    weight: float = 1.0
    """The metric is the mean of `value / weight` sums: 1 for a mean over questions, words or bytes for perplexities."""


def wilson(successes: float, samples: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927), which stays within 0 and 1 for small `samples`."""
    share, square = successes / samples, Z_95**2
    centre = (share + square / (2 * samples)) / (1 + square / samples)
    half = Z_95 / (1 + square / samples) * math.sqrt(share * (1 - share) / samples + square / (4 * samples**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def normal(value: float, stderr: float) -> tuple[float, float]:
    """The 95 % interval of an estimate whose error is normal."""
    return value - Z_95 * stderr, value + Z_95 * stderr


def encode_lines(outcomes: Sequence[Outcome]) -> bytes:
    """The content of `samples.jsonl`."""
    return msgspec.json.Encoder().encode_lines(outcomes)
