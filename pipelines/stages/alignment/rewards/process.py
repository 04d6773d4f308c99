"""A reward of each step of an answer, not of the answer alone (process supervision: Lightman et al. 2023,
arXiv:2305.20050): credited to the last token of the step."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.naming import Function
from pipelines.stages.alignment.rewards.python import loaded, taking_sample
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

MAX_STEPS = 1000


class ProcessReward(Reward, frozen=True):
    """What a function of the user's says of each step: `reward(sample, steps) -> numbers`, one for each of `steps`, the
    texts of the steps in their order. Of an answer without words there are none."""

    by_step: ClassVar[bool] = True

    function: Function
    """Import string, such as `my_rewards:each_line`; the module travels with the submitted folder."""
    options: dict[str, Any] = {}
    """Keyword arguments of the function."""
    ends: Annotated[str, Meta(min_length=1)] = r"\n+"
    """Python's regular expression of what ends a step, such as a line's end; it belongs to the step. The last step ends
    with the answer."""

    def check(self, where: str) -> None:
        super().check(where)
        try:
            re.compile(self.ends)
        except re.error as error:
            raise SpecError(f"{where}.ends: {error}", "Correct the regular expression.") from None

    def require(self) -> None:
        taking_sample(self.function, self.options, "rlhf.rewards", ("Sample", "list of steps"))

    def prepare(self) -> None:
        loaded(self.function)

    def of(self, sample: Sample) -> list[tuple[int, Any]]:
        """Where each step ends in the answer, in characters, and what it is worth."""
        places = self.places(sample.answer)
        steps = [sample.answer[begin:end] for begin, end in zip([0, *places], places, strict=False)]
        values = list(loaded(self.function)(sample, steps, **self.options))
        if len(values) != len(steps):
            raise ValueError(f"{len(values)} numbers for {len(steps)} steps")
        return list(zip(places, values, strict=True))

    def places(self, answer: str) -> list[int]:
        """The ends of the steps of an answer; a blank one belongs to the step before it, or, as the first, to the one
        after it."""
        found: list[int] = []
        begin = 0
        for end in [*(match.end() for match in re.finditer(self.ends, answer)), len(answer)]:
            if answer[begin:end].strip():
                found.append(end)
            elif found:
                found[-1] = end
            begin = end if found else 0
        if len(found) > MAX_STEPS:
            raise ValueError(f"{len(found)} steps, more than {MAX_STEPS}")
        return found
