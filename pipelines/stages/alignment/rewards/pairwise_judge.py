"""A model as judge of two answers: the sampled one, and that of the prompt's record (Zheng et al. 2023,
arXiv:2306.05685). Each pair is shown both ways, since a judge favours what it is shown first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pipelines.stages.alignment.rewards.asked import AskedReward
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.evaluation import pairwise

if TYPE_CHECKING:
    from pipelines.stages.generation.asking import Answer

WORTH = {"1": 1.0, "2": 0.0, "tie": 0.5}


class PairwiseJudge(AskedReward, frozen=True):
    """The mean of two verdicts: 1 where the answer is preferred to the prompt's reference whichever stands first, 0
    where the reference is, 0.5 for two ties, for verdicts that contradict each other, and for the reference itself.

    It is a failure where one of the verdicts cannot be read.
    """

    needs_reference: ClassVar[bool] = True

    def questions(self, sample: Sample) -> list[str]:
        pair = (sample.answer, sample.reference)
        if sample.answer.strip() == sample.reference.strip():
            return []
        return [pairwise.question(self.criteria, sample.asked, "", *shown) for shown in (pair, pair[::-1])]

    def read(self, answers: Sequence[Answer]) -> float:
        if not answers:
            return WORTH["tie"]
        verdicts = [pairwise.verdict(answer) for answer in answers]
        for answer, verdict in zip(answers, verdicts, strict=True):
            if verdict is None:
                last = answer.text.rstrip().rpartition("\n")[2].strip()
                told = answer.refused or f"its last line is none of [[1]], [[2]] and [[tie]]: {last[:80]!r}"
                raise ValueError(f"the judge gave no verdict: {told}")
        first, second = (WORTH[str(verdict)] for verdict in verdicts)
        return (first + 1 - second) / 2
