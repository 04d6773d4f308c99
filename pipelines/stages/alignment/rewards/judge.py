"""A model as judge: how good an answer is, by another model behind OpenAI's API (Zheng et al. 2023, arXiv:2306.05685,
single-answer grading)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pipelines.stages.alignment.rewards.asked import AskedReward
from pipelines.stages.alignment.rewards.question import question
from pipelines.stages.alignment.rewards.sample import Sample

if TYPE_CHECKING:
    from pipelines.stages.generation.asking import Answer

VERDICT = re.compile(r"\[\[(\d{1,3})\]\]")

MARK = """\
Give your reasons in a few sentences. Then write, on a last line of its own and nothing else on it, your mark, from
[[0]], useless, to [[{best}]], as good as can be."""


class Judge(AskedReward, frozen=True):
    """The judge's mark over the best mark, 0 to 1. A verdict that cannot be read is a failure."""

    best: Annotated[int, Meta(ge=1, le=100)] = 10
    """The highest mark; the lowest is 0."""
    with_reference: bool = True
    """Show the judge the answer of the prompt's record, where it has one."""

    def questions(self, sample: Sample) -> list[str]:
        return [question(sample, self.criteria, self.with_reference) + MARK.format(best=self.best)]

    def read(self, answers: Sequence[Answer]) -> float:
        """The reward by the last line of a verdict alone."""
        (answer,) = answers
        if answer.refused:
            raise ValueError(f"the judge gave no verdict: {answer.refused}")
        last = answer.text.rstrip().rpartition("\n")[2].strip()
        found = VERDICT.fullmatch(last)
        if not found or int(found[1]) > self.best:
            raise ValueError(f"the judge's last line is no mark of [[0]] to [[{self.best}]]: {last[:80]!r}")
        return int(found[1]) / self.best
