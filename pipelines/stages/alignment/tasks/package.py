"""Environments of verifiers (github.com/PrimeIntellect-ai/verifiers), which is installed where it is wanted.

Those of the classic kind: a module with `load_environment`, which returns an environment that has a data set, speaks
between turns, and scores by a rubric. Releases from 0.4 on have no such environments.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.core.errors import NotReadyError, SpecError
from pipelines.stages import licenses
from pipelines.stages.alignment.tasks.spec import TasksSpec
from pipelines.stages.corpus.readers.installed import license_of
from pipelines.stages.licenses import UNKNOWN

FIRST, TOO_NEW = (0, 1, 14), (0, 4)
INSTALL = "Install it, on every machine of the cluster: pip install 'verifiers>=0.1.14,<0.4'."


def verifiers() -> Any:
    """The package. Raises NotReadyError where it is not installed, or of a release without classic environments."""
    try:
        check_version(version())
        import verifiers as found
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        raise NotReadyError(
            f"verifiers is needed for its environments, and cannot be imported: {error}", INSTALL
        ) from None
    return found


def version() -> str:
    return importlib.metadata.version("verifiers")


def check_version(found: str) -> None:
    """Raise NotReadyError for a release whose environments are others."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if not FIRST <= numbers < TOO_NEW:
        raise NotReadyError(f"verifiers {found} has no environments of the kind that is played here", INSTALL)


def environment(name: str, options: dict[str, Any]) -> Any:
    """The environment of a name and the arguments of its `load_environment`; one for all of a process."""
    return _loaded(name, json.dumps(options, sort_keys=True))


@functools.cache
def _loaded(name: str, options: str) -> Any:
    package = verifiers()
    with _signals_kept():
        try:
            found = package.load_environment(name, **json.loads(options))
        except Exception as error:  # it wraps what the environment's own code raises
            raise SpecError(
                f"tasks.tasks.{name}: verifiers cannot load it: {error}",
                "Install the environment, or correct tasks.options, its arguments.",
            ) from error
    if found.rubric.has_group_rewards:
        raise SpecError(
            f"tasks.tasks.{name}: its rubric scores answers by comparing them with others of their group",
            "Take an environment that scores each by itself.",
        )
    return found


@contextmanager
def _signals_kept() -> Iterator[None]:
    """An environment takes signals for itself when it is made."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def rows(spec: TasksSpec, name: str) -> list[dict[str, Any]]:
    """The examples of an environment's data set as prompts, shuffled, each with all of its fields as the reference.

    Raises NotReadyError without the package, SpecError for what cannot be a prompt.
    """
    options = spec.options.get(name, {})
    found = environment(name, options)
    examples = found.get_dataset(spec.tasks[name], spec.seed).to_list()
    if len(examples) < 2:
        raise SpecError(f"tasks.tasks.{name}: has {len(examples)} example, and one is held out", "Take another.")
    tools = [_tool(tool) for tool in found.tool_defs or []]
    license = _license(type(found).__module__)
    made = []
    for number, example in enumerate(examples):
        try:
            reference = json.dumps({"environment": name, "options": options, "example": example})
        except TypeError as error:
            raise SpecError(
                f"tasks.tasks.{name}: its examples are no plain data ({error}), and cannot be kept", "Take another."
            ) from error
        row = {
            "id": f"{name}:{example.get('example_id', number)}",
            "messages": [_message(name, message) for message in example["prompt"]],
            "reference": reference,
            "source": f"verifiers {name}",
            "license": license,
        }
        made.append({**row, "tools": tools} if tools else row)
    return made


def _message(name: str, message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise SpecError(f"tasks.tasks.{name}: a prompt has more than texts", "Take an environment of texts.")
    return {"role": str(message["role"]), "content": message["content"]}


def _tool(tool: Any) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _license(module: str) -> str:
    for name in importlib.metadata.packages_distributions().get(module.partition(".")[0], ()):
        return licenses.normalize(license_of(importlib.metadata.distribution(name)))
    return UNKNOWN
