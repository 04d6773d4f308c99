"""The judgement stage: which of two models answers better, by a third, pair by pair (Zheng et al. 2023,
arXiv:2306.05685).

A judge favours what it is shown first, so that every pair is shown both ways: an answer wins where it is preferred
both times, and everything else is a tie. Two answers that are the same are a tie without being asked about.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cluster.core.context import Context
from cluster.core.errors import JobError
from cluster.core.specs.spec import canonical, fields
from pipelines.specs import JudgementSpec
from pipelines.stages.evaluation import pairwise
from pipelines.stages.evaluation.paired import read
from pipelines.stages.evaluation.results import (
    RESULTS_FILE,
    SAMPLES_FILE,
    Outcome,
    Result,
    Results,
    encode_outcomes,
    encode_results,
    wilson,
)
from pipelines.stages.evaluation.side_by_side import Asked, gather, transcript
from pipelines.stages.generation.asking import Answer, Asker, Request
from pipelines.stages.tuning.conversations import write_lines

TASK = "judgement"
VERDICTS_FILE = "verdicts.jsonl"
OURS, BASELINE, TIE, UNREAD = "answers", "baseline", "tie", "unread"
SIDES = (OURS, BASELINE)  # in the order of `Asked.answers`
WORTH = {OURS: 1.0, TIE: 0.5, BASELINE: 0.0}


def build(ctx: Context[JudgementSpec]) -> dict[str, Any]:
    """Write verdicts.jsonl (a line for each that was asked for), asked.jsonl (with prompts and reasons), results.json
    and samples.jsonl. Returns how the pairs ended.

    Raises InputError where both were not asked the same, JobError where no verdict can be read.
    """
    spec = ctx.spec
    artifacts = [ctx.inputs[side] for side in SIDES]
    rows = gather(artifacts)[: spec.max_prompts or None]
    asker = Asker(ctx, spec.endpoint, spec.seed)
    unlike = [row for row in rows if row.answers[0].strip() != row.answers[1].strip()]
    asked = [(row, first) for row in unlike for first in SIDES]
    answers = asker.ask([request(row, first, spec) for row, first in asked])
    verdicts: dict[str, list[str]] = {row.id: [] for row in rows}
    lines = []
    for (row, first), answer in zip(asked, answers, strict=True):
        verdicts[row.id].append(verdict := read_verdict(answer, first))
        lines.append({"id": row.id, "first": first, "verdict": verdict, "request": answer.key})
    write_lines(ctx.output, VERDICTS_FILE, lines)
    ends = {id: end_of(found) for id, found in verdicts.items()}
    if not any(end in WORTH for end in ends.values()):
        raise JobError(
            f"judgement: none of {len(answers)} verdicts can be read",
            f"The judge must end with [[1]], [[2]] or [[tie]]: take a stronger one ({ctx.output.url} holds its words).",
        )
    results, outcomes = figures(ends)
    shown = json.dumps([[row.id, row.request, row.reference, row.answers[1]] for row in rows], ensure_ascii=False)
    report = Results(
        model=read(artifacts[0]).model,
        results=results,
        data_sha256={TASK: hashlib.sha256(f"{shown}{canonical(fields(spec))}".encode()).hexdigest()},
    )
    ctx.output.write_bytes(SAMPLES_FILE, encode_outcomes(outcomes))
    ctx.output.write_bytes(RESULTS_FILE, encode_results(report))
    counts = Counter(ends.values())
    return {
        **{result.metric: round(result.value, 4) for result in results},
        "pairs": len(rows),
        "won": counts[OURS],
        "lost": counts[BASELINE],
        "tied": counts[TIE],
        "unread": counts[UNREAD],
        "identical": len(rows) - len(unlike),
        "inconsistent": sum(UNREAD not in found and len(set(found)) > 1 for found in verdicts.values()),
        "favours_first": _share_of_first(lines),
        "asked": asker.totals(),
    }


def request(row: Asked, first: str, spec: JudgementSpec) -> Request:
    """What the judge is asked, with the answer of `first` shown first."""
    answers = row.answers if first == OURS else row.answers[::-1]
    reference = row.reference if spec.with_reference else ""
    text = pairwise.question(spec.criteria, transcript(row.request), reference, *answers)
    return Request(f"{row.id}/{first}", [{"role": "user", "content": text}])


def read_verdict(answer: Answer, first: str) -> str:
    """Whom a judge prefers: one of SIDES or TIE, by the last line alone; UNREAD where that is no verdict."""
    verdict = pairwise.verdict(answer)
    if verdict is None:
        return UNREAD
    second = BASELINE if first == OURS else OURS
    return {"1": first, "2": second, "tie": TIE}[verdict]


def end_of(verdicts: Sequence[str]) -> str:
    """How a pair ends: won by one of SIDES by all verdicts, or a TIE; UNREAD where one cannot be read."""
    if UNREAD in verdicts:
        return UNREAD
    return verdicts[0] if verdicts and len(set(verdicts)) == 1 else TIE


def figures(ends: dict[str, str]) -> tuple[list[Result], list[Outcome]]:
    """The win rate (a tie is half a win) and the shares of wins and ties, each with Wilson's interval, of the pairs
    that were judged. With ties the interval is wider than it need be, since a tie varies less than a win or a loss."""
    judged = {id: WORTH[end] for id, end in ends.items() if end in WORTH}
    results, outcomes = [], []
    worths = {
        "win_rate": judged,
        "wins": {id: float(worth == 1) for id, worth in judged.items()},
        "ties": {id: float(worth == 0.5) for id, worth in judged.items()},
    }
    for metric, values in worths.items():
        total, number = sum(values.values()), len(values)
        low, high = wilson(total, number)
        results.append(
            Result(
                task=TASK,
                metric=metric,
                value=total / number,
                ci_low=low,
                ci_high=high,
                ci_method="wilson",
                samples=number,
                aggregation="mean",
            )
        )
        outcomes += [Outcome(task=TASK, metric=metric, id=id, value=value) for id, value in values.items()]
    return results, outcomes


def _share_of_first(lines: list[dict[str, Any]]) -> float | None:
    """Of the verdicts for one side, the share that are for the one shown first: 0.5 where that makes no difference."""
    decided = [line for line in lines if line["verdict"] in SIDES]
    if not decided:
        return None
    return round(sum(line["verdict"] == line["first"] for line in decided) / len(decided), 4)
