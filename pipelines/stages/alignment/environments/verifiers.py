"""Environments of the package verifiers, which their tasks name (pipelines/stages/alignment/tasks/playing.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.tasks import package


class VerifiersEnvironment(Environment, frozen=True, tag="verifiers"):
    """What the environment of the prompt says, by its own code; the prompts are an artifact `tasks` of source
    `verifiers`. Its own bounds on turns hold, too."""

    needs_reference: ClassVar[bool] = True

    timeout_seconds: Annotated[float, Meta(gt=0)] = 300.0
    """How long it may take over one turn, the first of a process with all that it loads; then its process is started
    again, and the model is told that it failed."""

    def require(self) -> None:
        package.verifiers()

    def check_reference(self, reference: str) -> None:
        from pipelines.stages.alignment.tasks import playing

        playing.Task.of(reference)

    def prepare(self, files: Mapping[str, Path]) -> None:
        from pipelines.stages.alignment.tasks import playing

        playing.prepare()

    def reply(self, sample: Sample) -> str | None:
        from pipelines.stages.alignment.tasks import playing

        return playing.next_reply(sample)
