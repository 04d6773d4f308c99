"""The stage of tasks that a program makes: prompts as JSON lines, each with its whole entry as the reference."""

from __future__ import annotations

import importlib.metadata
import json
import math
from typing import Any

from cluster.core.context import Context
from cluster.core.errors import SpecError, nearest
from pipelines.specs import TasksSpec
from pipelines.stages.alignment.tasks.gym import reasoning_gym
from pipelines.stages.tuning.conversations import Row, write_lines

LICENSE = "Apache-2.0"  # of the package, of which the tasks are


def build(ctx: Context[TasksSpec]) -> dict[str, Any]:
    """Write train.jsonl and heldout.jsonl. Raises NotReadyError without the package, SpecError for what it refuses."""
    gym, spec = reasoning_gym(), ctx.spec
    splits: dict[str, list[Row]] = {"train": [], "heldout": []}
    for name, count in spec.tasks.items():
        rows = [_row(name, number, entry, spec.instruction) for number, entry in enumerate(_entries(gym, spec, name))]
        kept = count - min(count - 1, max(1, math.floor(spec.heldout_fraction * count)))
        splits["train"] += rows[:kept]
        splits["heldout"] += rows[kept:]
    asked = {row["messages"][0]["content"] for row in splits["train"]}
    alike = [row for row in splits["heldout"] if row["messages"][0]["content"] in asked]
    splits["heldout"] = [row for row in splits["heldout"] if row not in alike]
    if not splits["heldout"]:
        raise SpecError(
            "tasks.tasks: every held-out task asks what one of the train split asks",
            "Take fewer tasks, or harder ones (tasks.options).",
        )
    for split, rows in splits.items():
        write_lines(ctx.output, f"{split}.jsonl", rows)
    counts = {split: len(rows) for split, rows in splits.items()}
    return {**counts, "repeated": len(alike), "reasoning_gym": importlib.metadata.version("reasoning-gym")}


def _entries(gym: Any, spec: TasksSpec, name: str) -> Any:
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise SpecError(f"tasks.tasks: reasoning-gym has no data set {name!r}", nearest(name, list(DATASETS)))
    try:
        return gym.create_dataset(name, size=spec.tasks[name], seed=spec.seed, **spec.options.get(name, {}))
    except (AssertionError, TypeError, ValueError) as error:  # by which its configurations say what is wrong
        raise SpecError(f"tasks.options.{name}: {error}", "See the configuration of the data set.") from error


def _row(name: str, number: int, entry: dict[str, Any], instruction: str) -> Row:
    question = f"{entry['question']}\n{instruction}" if instruction else entry["question"]
    try:
        reference = json.dumps(entry)
    except TypeError as error:
        raise SpecError(
            f"tasks.tasks.{name}: its tasks are no plain data ({error}), and cannot be kept", "Take another data set."
        ) from error
    return {
        "id": f"{name}:{number}",
        "messages": [{"role": "user", "content": question}],
        "reference": reference,
        "source": f"reasoning-gym {name}",
        "license": LICENSE,
    }
