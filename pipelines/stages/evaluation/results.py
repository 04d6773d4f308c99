"""Results of an evaluation: what every evaluating stage writes, so that any two of them can be compared.

`results.json` is one `Results`; `samples.jsonl` holds one `Outcome` a line: what became of one question under one
metric. Outcomes are what lets two models be compared in pairs, question by question.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.jsonl"
Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point
RESAMPLES = 1000


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one task. The standard error and the interval are None where the metric has none."""

    task: str
    metric: str
    value: float
    stderr: float | None = None
    ci_low: float | None = None
    """Lower end of the 95 % confidence interval."""
    ci_high: float | None = None
    ci_method: Literal["", "wilson", "normal", "bootstrap"] = ""
    samples: int
    """Questions or documents that the value was taken over."""
    higher_is_better: bool = True
    aggregation: Literal["", "mean", "perplexity", "bits"] = ""
    """How the value follows from the outcomes (`aggregate`); empty where it does not follow from single ones."""
    num_fewshot: int = 0
    """Solved examples before each question."""
    task_version: str = ""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `results.json`."""

    model: str
    """Ref of the artifact that was evaluated."""
    results: list[Result]
    data_sha256: dict[str, str] = {}
    """Task: digest of the data that it was taken over."""
    versions: dict[str, str] = {}
    """Packages that made the figures."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one question (or document) under one metric."""

    task: str
    metric: str
    id: str
    """The same for the same question, whatever the model, and unique within the task."""
    value: float
    """Its contribution: such as 1.0 for a right answer; for perplexities its log-likelihood in nats."""
    weight: float = 1.0
    """What the contribution is divided by: 1 for a question, words, bytes or tokens for perplexities."""


def aggregate(aggregation: str, values: Iterable[float], weights: Iterable[float]) -> float:
    """The metric of these outcomes: m = sum of values / sum of weights; for `perplexity` exp(-m), for `bits` -m / ln 2.

    A perplexity beyond all numbers is infinite.
    """
    mean = math.fsum(values) / math.fsum(weights)
    if aggregation == "mean":
        return mean
    return -mean / math.log(2) if aggregation == "bits" else math.exp(-mean) if mean > -700 else math.inf


def wilson(successes: float, samples: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927): within 0 and 1, and honest for few samples."""
    share, square = successes / samples, Z_95**2
    centre = (share + square / (2 * samples)) / (1 + square / samples)
    half = Z_95 / (1 + square / samples) * math.sqrt(share * (1 - share) / samples + square / (4 * samples**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def normal(value: float, stderr: float) -> tuple[float, float]:
    """The 95 % interval of an estimate whose error is normal."""
    return value - Z_95 * stderr, value + Z_95 * stderr


def resample(statistic: Callable[[Sequence[int]], float], samples: int, seed: int = 0) -> list[float]:
    """The statistic of `RESAMPLES` bootstrap samples (Efron 1979), sorted; it is given the drawn positions."""
    draw, positions = random.Random(seed), range(samples)
    return sorted(statistic(draw.choices(positions, k=samples)) for _ in range(RESAMPLES))


def percentiles(drawn: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of sorted numbers."""
    return drawn[round(0.025 * (len(drawn) - 1))], drawn[round(0.975 * (len(drawn) - 1))]


def bootstrap(aggregation: str, outcomes: Sequence[Outcome], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the metric over outcomes drawn anew."""
    values, weights = [o.value for o in outcomes], [o.weight for o in outcomes]

    def metric(chosen: Sequence[int]) -> float:
        return aggregate(aggregation, map(values.__getitem__, chosen), map(weights.__getitem__, chosen))

    return percentiles(resample(metric, len(outcomes), seed))


def right_or_wrong(outcomes: Iterable[Outcome]) -> bool:
    """Whether each outcome is 1 or 0, of weight 1."""
    return all(outcome.value in (0, 1) and outcome.weight == 1 for outcome in outcomes)


def with_interval(result: Result, outcomes: Sequence[Outcome], seed: int = 0) -> Result:
    """The result with its 95 % confidence interval.

    Wilson's for a share of right answers; the bootstrap's for perplexities and bits; else the normal one about the
    value, where there is a standard error.
    """
    interval, method = None, ""
    if result.aggregation == "mean" and outcomes and right_or_wrong(outcomes):
        interval, method = wilson(sum(o.value for o in outcomes), len(outcomes)), "wilson"
    elif result.aggregation in ("perplexity", "bits") and len(outcomes) > 1:
        interval, method = bootstrap(result.aggregation, outcomes, seed), "bootstrap"
    elif result.stderr is not None:
        interval, method = normal(result.value, result.stderr), "normal"
    low, high = interval or (None, None)
    return msgspec.structs.replace(result, ci_low=low, ci_high=high, ci_method=method)


def encode_results(results: Results) -> bytes:
    """The content of `results.json`."""
    return msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"


def encode_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    """The content of `samples.jsonl`."""
    return msgspec.json.Encoder().encode_lines(outcomes)
