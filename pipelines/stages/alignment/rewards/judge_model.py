"""A model artifact as judge, the input `judge`, without an endpoint. Of a model that chats the mark is the expectation
by its own probabilities of all marks (Liu et al. 2023, arXiv:2303.16634): one pass and no sampling.

The run asks it, and not a process of rewards (pipelines/stages/alignment/judging.py).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from cluster.core.errors import SpecError
from pipelines.stages.alignment.rewards.question import question
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

MARK = "Write your mark and nothing else, from [[0]], useless, to [[{best}]], as good as can be."


class JudgeModel(Reward, frozen=True):
    """The mark of the input `judge` over the best mark, 0 to 1; of a reward model the sigmoid of its score.

    It is a failure where the judge would rather write something else than a mark, or has no room for the question.
    """

    criteria: str = "correctness, helpfulness, clarity"
    """What the answers are judged by; a reward model knows nothing of it, nor of what follows."""
    best: Annotated[int, Meta(ge=1, le=9)] = 9
    """The highest mark, of one digit; the lowest is 0."""
    with_reference: bool = True
    """Show the judge the answer of the prompt's record, where it has one."""
    least_probability: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Of all marks together, where one is due: a judge below it has not understood the question."""

    @property
    def watches(self) -> bool:
        return not self.weight

    def check(self, where: str) -> None:
        super().check(where)
        if not self.criteria.strip():
            raise SpecError(f"{where}.criteria: is empty", "Say what counts.")

    @property
    def marks(self) -> list[str]:
        """What the judge may write, worst first."""
        return [f"[[{number}]]" for number in range(self.best + 1)]

    def question(self, sample: Sample) -> str:
        """What the judge is asked about a sample."""
        return question(sample, self.criteria, self.with_reference) + MARK.format(best=self.best)
