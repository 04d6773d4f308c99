"""What an environment of the package verifiers says that an answer is worth."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.tasks import package


class VerifiersReward(Reward, frozen=True):
    """The reward by the rubric of the prompt's environment, of all turns; any number.

    The prompt's reference is the environment's example, as the artifact `tasks` has it.
    """

    needs_reference: ClassVar[bool] = True

    timeout_seconds: Annotated[float, Meta(gt=0)] = 300.0
    """How long it may take over one sample, the first of a process with all that its environment loads."""

    def require(self) -> None:
        package.verifiers()

    def prepare(self) -> None:
        from pipelines.stages.alignment.tasks import playing

        playing.prepare()

    def check_reference(self, reference: str) -> None:
        from pipelines.stages.alignment.tasks import playing

        playing.Task.of(reference)

    def of(self, sample: Sample) -> float:
        from pipelines.stages.alignment.tasks import playing

        return playing.worth(sample)
