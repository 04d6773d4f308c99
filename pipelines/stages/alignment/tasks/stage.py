"""The stage of tasks that programs make and check: prompts as JSON lines, each with all that its checker needs as the
reference."""

from __future__ import annotations

import math
from typing import Any

from cluster.core.context import Context
from cluster.core.errors import SpecError
from pipelines.specs import TasksSpec
from pipelines.stages.alignment.tasks import gym, package
from pipelines.stages.tuning.conversations import Row, write_lines


def build(ctx: Context[TasksSpec]) -> dict[str, Any]:
    """Write train.jsonl and heldout.jsonl. Raises NotReadyError without the package that makes the tasks, SpecError for
    what it refuses."""
    spec = ctx.spec
    source = {"reasoning_gym": gym, "verifiers": package}[spec.source]
    splits: dict[str, list[Row]] = {"train": [], "heldout": []}
    for name in spec.tasks:
        rows = source.rows(spec, name)
        kept = len(rows) - min(len(rows) - 1, max(1, math.floor(spec.heldout_fraction * len(rows))))
        splits["train"] += rows[:kept]
        splits["heldout"] += rows[kept:]
    asked = {_asked(row) for row in splits["train"]}
    alike = [row for row in splits["heldout"] if _asked(row) in asked]
    splits["heldout"] = [row for row in splits["heldout"] if row not in alike]
    if not splits["heldout"]:
        raise SpecError(
            "tasks.tasks: every held-out task asks what one of the train split asks",
            "Take fewer tasks, or harder ones (tasks.options).",
        )
    for split, rows in splits.items():
        write_lines(ctx.output, f"{split}.jsonl", rows)
    counts = {split: len(rows) for split, rows in splits.items()}
    return {**counts, "repeated": len(alike), spec.source: source.version()}


def _asked(row: Row) -> str:
    return str(row["messages"])
