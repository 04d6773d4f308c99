"""What an environment of the package verifiers says that an answer is worth."""

from __future__ import annotations

from typing import ClassVar

from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.tasks import package


class VerifiersReward(Reward, frozen=True):
    """The reward by the rubric of the prompt's environment, of all turns; any number.

    The prompt's reference is the environment's example, as the artifact `tasks` has it.
    """

    needs_reference: ClassVar[bool] = True

    def require(self) -> None:
        package.verifiers()

    def prepare(self) -> None:
        package.verifiers()

    def check_reference(self, reference: str) -> None:
        from pipelines.stages.alignment.tasks import playing

        playing.Task.of(reference)

    def of(self, sample: Sample) -> float:
        from pipelines.stages.alignment.tasks import playing

        return playing.worth(sample)
