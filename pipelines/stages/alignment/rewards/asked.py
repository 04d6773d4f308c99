"""Rewards that another model tells, behind OpenAI's API.

It is asked by the run and not in a process of rewards, about many answers at once, within `scaling`'s limits. What it
said is kept: a run that goes on is not told another verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.core.errors import SpecError
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.generation.endpoint import ChatEndpoint

if TYPE_CHECKING:
    from pipelines.stages.generation.asking import Answer


class AskedReward(Reward, frozen=True):
    """Base of them: the endpoint, and by what it judges."""

    endpoint: ChatEndpoint
    """The judge, and how it is to answer."""
    criteria: str = "correctness, helpfulness, clarity"
    """What the answers are judged by."""

    @property
    def watches(self) -> bool:
        return not self.weight

    def check(self, where: str) -> None:
        super().check(where)
        self.endpoint.check(f"{where}.endpoint")
        if not self.criteria.strip():
            raise SpecError(f"{where}.criteria: is empty", "Say what counts.")

    def require(self) -> None:
        from pipelines.stages.generation.asking import api_key

        api_key(self.endpoint)

    def questions(self, sample: Sample) -> list[str]:
        """What the judge is asked about a sample; nothing where the reward is known without it."""
        raise NotImplementedError

    def read(self, answers: Sequence[Answer]) -> float:
        """The reward, by the answers to `questions`. Raises ValueError where they cannot be read."""
        raise NotImplementedError
