"""Evaluations side by side: every figure with its interval, and whether a difference is more than noise.

Two models that answered the same questions are compared in pairs, question by question, which sees far smaller
differences than two intervals do: right and wrong by McNemar's exact test (McNemar 1947), everything else by a paired
bootstrap, seeded. The first artifact is what the others are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from pipelines.stages.evaluation.results import (
    RESULTS_FILE,
    SAMPLES_FILE,
    Z_95,
    Outcome,
    Result,
    Results,
    aggregate,
    percentiles,
    resample,
    right_or_wrong,
)

Metric = tuple[str, str]  # task, metric


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How one metric of `model` differs from that of `baseline`. Without a paired test, `reason` says why."""

    task: str
    metric: str
    model: str
    baseline: str
    difference: float
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    """Probability of a difference at least as large between models that are equally good."""
    test: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What one artifact found, by task and metric."""

    ref: str
    model: str
    """Ref of the artifact that was evaluated."""
    results: dict[Metric, Result]
    outcomes: dict[Metric, list[Outcome]]
    data_sha256: dict[str, str]


def read(artifact: Artifact) -> Evaluation:
    """The results of an evaluating artifact. Raises InputError for one of another kind."""
    if RESULTS_FILE not in artifact.record.files:
        raise InputError(
            f"{artifact.record.ref} holds no {RESULTS_FILE}",
            "Give artifacts that evaluate a model, such as benchmark/...",
        )
    report = msgspec.json.decode(artifact.location.read_bytes(RESULTS_FILE), type=Results)
    outcomes: dict[Metric, list[Outcome]] = {}
    if SAMPLES_FILE in artifact.record.files:
        decoder = msgspec.json.Decoder(Outcome)
        for outcome in decoder.decode_lines(artifact.location.read_bytes(SAMPLES_FILE)):
            outcomes.setdefault((outcome.task, outcome.metric), []).append(outcome)
    results = {(result.task, result.metric): result for result in report.results}
    return Evaluation(artifact.record.ref, report.model, results, outcomes, report.data_sha256)


def metrics(evaluations: Sequence[Evaluation]) -> list[Metric]:
    """All metrics that any of them has, in the order in which they come."""
    return list(dict.fromkeys(metric for evaluation in evaluations for metric in evaluation.results))


def differences(evaluations: Sequence[Evaluation], seed: int = 0) -> list[Difference]:
    """Each metric of each further evaluation against the first one's, where both have it."""
    baseline, *others = evaluations
    return [
        compare(baseline, other, metric, seed)
        for metric in baseline.results
        for other in others
        if metric in other.results
    ]


def compare(baseline: Evaluation, other: Evaluation, metric: Metric, seed: int = 0) -> Difference:
    """One metric of two evaluations."""
    ours, theirs = (one.results[metric] for one in (other, baseline))
    given: dict[str, Any] = {
        "task": metric[0],
        "metric": metric[1],
        "model": other.ref,
        "baseline": baseline.ref,
        "difference": ours.value - theirs.value,
    }
    if baseline.data_sha256.get(metric[0]) != other.data_sha256.get(metric[0]):
        return Difference(**given, reason="other data")
    if ours.num_fewshot != theirs.num_fewshot or ours.task_version != theirs.task_version:
        return Difference(**given, reason="other prompts")
    first = {outcome.id: outcome for outcome in baseline.outcomes.get(metric, [])}
    second = {outcome.id: outcome for outcome in other.outcomes.get(metric, [])}
    if not first or not second:
        return Difference(**given, reason="no single outcomes")
    if first.keys() != second.keys() or any(first[i].weight != second[i].weight for i in first):
        return Difference(**given, reason="other samples")
    pairs = [(first[i], second[i]) for i in first]
    if ours.aggregation == "mean" and right_or_wrong([*first.values(), *second.values()]):
        return Difference(**given, **mcnemar(pairs))
    return Difference(**given, **paired_bootstrap(ours.aggregation, pairs, seed))


def mcnemar(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    """The exact test of the questions that only one of both got right; Wald's interval of the difference (Agresti 2013,
    section 11.1)."""
    lost = sum(a.value > b.value for a, b in pairs)
    won = sum(a.value < b.value for a, b in pairs)
    differing, number = won + lost, len(pairs)
    tail = sum(math.comb(differing, k) for k in range(min(won, lost) + 1))
    half = Z_95 * math.sqrt(differing - (won - lost) ** 2 / number) / number
    return {
        "ci_low": (won - lost) / number - half,
        "ci_high": (won - lost) / number + half,
        "p_value": min(1.0, 2 * tail / 2**differing),
        "test": "McNemar",
    }


def paired_bootstrap(aggregation: str, pairs: Sequence[tuple[Outcome, Outcome]], seed: int) -> dict[str, Any]:
    """Samples drawn anew, the same for both; p is twice the share of draws on the rarer side of no difference."""
    weights = [a.weight for a, _ in pairs]
    values = [[pair[side].value for pair in pairs] for side in (0, 1)]

    def difference(chosen: Sequence[int]) -> float:
        drawn = [weights[i] for i in chosen]
        ours, theirs = (aggregate(aggregation, [values[side][i] for i in chosen], drawn) for side in (1, 0))
        return 0.0 if ours == theirs else ours - theirs  # two infinite perplexities are alike

    drawn = resample(difference, len(pairs), seed)
    rarer = min(sum(d <= 0 for d in drawn), sum(d >= 0 for d in drawn))
    low, high = percentiles(drawn)
    return {
        "ci_low": low,
        "ci_high": high,
        "p_value": min(1.0, 2 * (rarer + 1) / (len(drawn) + 1)),
        "test": "paired bootstrap",
    }
