"""Whether an answer is as long as it should be."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample


class LengthReward(Reward, frozen=True):
    """1 for an answer of `at_least` to `at_most`, and less by 1/`slack` for each that is missing or too many, to 0."""

    at_most: Annotated[int, Meta(ge=1)]
    """Longest answer that is worth 1."""
    at_least: Annotated[int, Meta(ge=0)] = 0
    """Shortest answer that is worth 1."""
    slack: Annotated[int, Meta(ge=1)] = 1
    """How far outside an answer is worth nothing any more."""
    unit: Literal["tokens", "characters", "words", "lines"] = "tokens"
    """What is counted: the policy's tokens, the end of the answer among them; or of its text without special ones."""

    def check(self, where: str) -> None:
        super().check(where)
        if self.at_least > self.at_most:
            raise SpecError(f"{where}.at_least: {self.at_least} is more than at_most, {self.at_most}", "Lower it.")

    def of(self, sample: Sample) -> float:
        length = self._length(sample)
        outside = max(self.at_least - length, length - self.at_most, 0)
        return max(0.0, 1 - outside / self.slack)

    def _length(self, sample: Sample) -> int:
        if self.unit == "tokens":
            return len(sample.tokens)
        if self.unit == "characters":
            return len(sample.answer)
        return len(sample.answer.split() if self.unit == "words" else sample.answer.splitlines())
