"""The user's own environment: a function named by its import string, called as `function(sample, **options)`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.core.specs.naming import Function
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.rewards.python import loaded, taking_sample
from pipelines.stages.alignment.rewards.sample import Sample


class PythonEnvironment(Environment, frozen=True, tag="python"):
    """What a function of the user's says: `reply(sample) -> str | None`."""

    function: Function
    """Import string, such as `my_games:twenty_questions`; the module travels with the submitted folder."""
    options: dict[str, Any] = {}
    """Keyword arguments of the function."""

    def require(self) -> None:
        taking_sample(self.function, self.options, "rlhf.environment")

    def prepare(self, files: Mapping[str, Path]) -> None:
        loaded(self.function)

    def reply(self, sample: Sample) -> str | None:
        said: str | None = loaded(self.function)(sample, **self.options)
        return said
