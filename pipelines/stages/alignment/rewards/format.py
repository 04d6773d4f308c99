"""Whether an answer has a form: a regular expression that all of it, or a part of it, is matched by."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample


class FormatReward(Reward, frozen=True):
    """1 where the expression matches, else 0, as in DeepSeek-R1 (arXiv:2501.12948, section 2.2.2)."""

    pattern: Annotated[str, Meta(min_length=1)]
    """Python's regular expression, such as `<think>.*</think>\\s*<answer>.*</answer>`; `.` matches line ends, too."""
    match: Literal["whole", "part"] = "whole"
    """Whether all of the answer, without the blanks around it, must match, or some part of it."""
    of_text: bool = False
    """Match the answer with its special tokens."""

    def check(self, where: str) -> None:
        super().check(where)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise SpecError(f"{where}.pattern: {error}", "Correct the regular expression.") from None

    def of(self, sample: Sample) -> float:
        pattern = re.compile(self.pattern, re.DOTALL)
        text = (sample.text if self.of_text else sample.answer).strip()
        return float(bool(pattern.fullmatch(text) if self.match == "whole" else pattern.search(text)))
