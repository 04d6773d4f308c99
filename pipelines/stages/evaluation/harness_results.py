"""lm-eval's figures and samples in Trunkline's format of results (pipelines/stages/evaluation/results.py)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

from pipelines.stages.evaluation.results import Outcome, Result, aggregate, with_interval

# Metrics of lm-eval that follow from single samples otherwise than by their mean (lm_eval/api/metrics.py).
AGGREGATIONS: dict[str, Any] = {
    "perplexity": "perplexity",
    "word_perplexity": "perplexity",
    "byte_perplexity": "perplexity",
    "bits_per_byte": "bits",
}


def read(found: dict[str, Any], seed: int) -> tuple[list[Result], list[Outcome]]:
    """What `simple_evaluate` returned of one task, tag or group: a result for each metric, an outcome for each sample.

    A group has its tasks' outcomes. A metric that does not follow from single samples (F1, BLEU) has none.
    """
    results, outcomes = [], []
    for name, figures in found["results"].items():
        members = _members(name, found)
        for key, value in figures.items():
            metric, _, kept_by = key.partition(",")
            if not kept_by or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            label = metric if kept_by == "none" else key
            own = [
                outcome
                for member in members
                for outcome in _outcomes(name, label, key, found["samples"][member], f"{member}/" * (member != name))
            ]
            aggregation = AGGREGATIONS.get(metric, "mean")
            if not _follows(value, aggregation, own):
                own, aggregation = [], ""
            stderr = figures.get(f"{metric}_stderr,{kept_by}")
            result = Result(
                task=name,
                metric=label,
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                samples=sum(found["n-samples"][member]["effective"] for member in members),
                higher_is_better=found["higher_is_better"][name].get(metric) is not False,
                aggregation=aggregation,
                num_fewshot=int(found["n-shot"].get(name) or 0),
                task_version=str(found["versions"].get(name, "")),
            )
            results.append(with_interval(result, own, seed))
            outcomes += own
    return results, outcomes


def data_digest(found: dict[str, Any]) -> str:
    """SHA-256 (hex) of the documents that were asked, in their order, as lm-eval saw them."""
    seen = (f"{name}/{s['doc_id']}/{s['doc_hash']}\n" for name, samples in found["samples"].items() for s in samples)
    return hashlib.sha256("".join(seen).encode()).hexdigest()


def _members(name: str, found: dict[str, Any]) -> list[str]:
    """The tasks of a group, at any depth; of a task, itself."""
    if name in found["samples"]:
        return [name]
    return [task for child in found["group_subtasks"][name] for task in _members(child, found)]


def _follows(value: float, aggregation: str, outcomes: list[Outcome]) -> bool:
    """Whether the figure is what these outcomes give: of a group that weighs its tasks alike, for one, it is not."""
    if not outcomes:
        return False
    again = aggregate(aggregation, [o.value for o in outcomes], [o.weight for o in outcomes])
    return math.isclose(again, value, rel_tol=1e-6, abs_tol=1e-9)


def _outcomes(name: str, label: str, key: str, samples: list[dict[str, Any]], before: str) -> Iterator[Outcome]:
    metric, _, kept_by = key.partition(",")
    for sample in samples:
        if sample["filter"] != kept_by or metric not in sample:
            continue
        value = sample[metric]
        value, weight = value if isinstance(value, tuple | list) and len(value) == 2 else (value, 1.0)
        if not isinstance(value, int | float) or not isinstance(weight, int | float):
            return
        identity = f"{before}{sample['doc_id']}-{sample['doc_hash'][:12]}"
        yield Outcome(task=name, metric=label, id=identity, value=float(value), weight=float(weight))
