"""Answers of several models to the same requests, side by side, as a page that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from pipelines.stages.evaluation.paired import Evaluation, metrics, read
from pipelines.stages.evaluation.results import Result
from pipelines.stages.tuning.conversations import read_lines

ANSWERS_FILE = "answers.jsonl"
TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Asked:
    """One request, its reference, and what each model answered."""

    id: str
    request: list[dict[str, Any]]
    reference: str
    answers: list[str]


def gather(artifacts: Sequence[Artifact]) -> list[Asked]:
    """The requests of artifacts of the kind `generation`, in the order of the first, with all answers.

    Raises InputError where one holds no answers, or was asked something else.
    """
    found = []
    for artifact in artifacts:
        if ANSWERS_FILE not in artifact.record.files:
            raise InputError(f"{artifact.record.ref} holds no {ANSWERS_FILE}", "Give artifacts such as generation/...")
        found.append({row["id"]: row for row in read_lines(artifact.location, ANSWERS_FILE)})
    first, ref = found[0], artifacts[0].record.ref
    for artifact, rows in zip(artifacts, found, strict=True):
        if rows.keys() != first.keys():
            shared = len(rows.keys() & first.keys())
            raise InputError(
                f"{artifact.record.ref} and {ref} were not asked the same: {shared} requests are in both, "
                f"{len(rows)} and {len(first)} in each",
                "Give both the same conversations and the same generation.max_prompts.",
            )
        for id, row in rows.items():
            if any(row[name] != first[id][name] for name in ("request", "reference")):
                raise InputError(
                    f"{artifact.record.ref} and {ref} were asked different things under the id {id!r}",
                    "Give both the same conversations.",
                )
    return [
        Asked(id, row["request"], row["reference"], [rows[id]["answer"] for rows in found]) for id, row in first.items()
    ]


def transcript(messages: Sequence[dict[str, Any]]) -> str:
    """A conversation as one text; of a single request what it says alone."""
    if len(messages) == 1:
        return said(messages[0])
    return "\n\n".join(f"{message['role']}: {said(message)}" for message in messages)


def said(message: dict[str, Any]) -> str:
    """What a message says, its thoughts and calls included."""
    parts = [message.get("reasoning_content") or "", message.get("content") or ""]
    parts += [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n\n".join(part for part in parts if part)


def page(artifacts: Sequence[Artifact], limit: int = 0) -> str:
    """The page, with the first `limit` requests (0: all). Every text is escaped; nothing is loaded from anywhere."""
    asked = gather(artifacts)
    evaluations = [read(artifact) for artifact in artifacts]
    shown = asked[: limit or None]
    differing = sum(len(set(row.answers)) > 1 for row in asked)
    summary = f"{len(asked)} requests, {differing} with different answers."
    if len(shown) < len(asked):
        summary += f" The first {len(shown)} are shown."
    numbers = [f"[{number}]" for number in range(1, len(artifacts) + 1)]
    models = [
        _row(number, evaluation.ref, evaluation.model) for number, evaluation in zip(numbers, evaluations, strict=True)
    ]
    names = [f"{number} {evaluation.model}" for number, evaluation in zip(numbers, evaluations, strict=True)]
    return Template(TEMPLATE.read_text()).substitute(
        columns=len(artifacts),
        summary=escape(summary),
        models=_row("", "answers", "model", tag="th") + "".join(models),
        figures=_figures(evaluations, numbers),
        answers="\n".join(_article(row, names) for row in shown),
    )


def _figures(evaluations: Sequence[Evaluation], numbers: list[str]) -> str:
    rows = [_row("metric", *numbers, tag="th")]
    for metric in metrics(evaluations):
        rows.append(_row(metric[1], *(_figure(evaluation.results.get(metric)) for evaluation in evaluations)))
    return "".join(rows)


def _figure(result: Result | None) -> str:
    if result is None:
        return ""
    interval = "" if result.ci_low is None else f" ({result.ci_low:.4f} to {result.ci_high:.4f})"
    return f"{result.value:.4f}{interval}"


def _article(row: Asked, names: list[str]) -> str:
    turns = "".join(
        (f'<p class="soft">{escape(message["role"])}</p>' if len(row.request) > 1 else "") + _shown(said(message))
        for message in row.request
    )
    answers = "".join(
        f'<section class="answer"><h3>{escape(name)}</h3>{_shown(text)}</section>'
        for name, text in zip(names, row.answers, strict=True)
    )
    answers += f'<section class="reference"><h3>reference</h3>{_shown(row.reference)}</section>'
    kind = "same" if len(set(row.answers)) == 1 else "differs"
    return (
        f'<article class="{kind}"><p class="soft">{escape(row.id)}</p><div class="request">{turns}</div>'
        f'<div class="answers">{answers}</div></article>'
    )


def _shown(text: str) -> str:
    if not text.strip():
        return '<p class="soft">(nothing)</p>'
    return f'<p class="said" dir="auto">{escape(text)}</p>'


def _row(*cells: str, tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
