"""Tasks of reasoning-gym, which is installed where it is wanted: its packages are many, and of one use."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from cluster.core.errors import NotReadyError, SpecError, nearest
from pipelines.stages.alignment.tasks.spec import TasksSpec

LICENSE = "Apache-2.0"  # of the package, of which the tasks are


def reasoning_gym() -> Any:
    """The package. Raises NotReadyError where it is not installed."""
    try:
        import reasoning_gym as found
    except ImportError as error:
        raise NotReadyError(
            f"reasoning-gym is needed for its tasks, and cannot be imported: {error}",
            "Install it, on every machine of the cluster: pip install reasoning-gym==0.1.25.",
        ) from None
    return found


def version() -> str:
    return importlib.metadata.version("reasoning-gym")


def rows(spec: TasksSpec, name: str) -> list[dict[str, Any]]:
    """The tasks of a data set as prompts, each with its whole entry as the reference. Raises NotReadyError without the
    package, SpecError for what it refuses."""
    return [_row(name, number, entry, spec.instruction) for number, entry in enumerate(_entries(spec, name))]


def _entries(spec: TasksSpec, name: str) -> Any:
    gym = reasoning_gym()
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise SpecError(f"tasks.tasks: reasoning-gym has no data set {name!r}", nearest(name, list(DATASETS)))
    try:
        return gym.create_dataset(name, size=spec.tasks[name], seed=spec.seed, **spec.options.get(name, {}))
    except (AssertionError, TypeError, ValueError) as error:  # by which its configurations say what is wrong
        raise SpecError(f"tasks.options.{name}: {error}", "See the configuration of the data set.") from error


def _row(name: str, number: int, entry: dict[str, Any], instruction: str) -> dict[str, Any]:
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
