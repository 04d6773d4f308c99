"""What a reward function is given, and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A conversation's request and a sampled answer; `finished`: the model ended it by itself."""

    messages: list[dict[str, str]]
    answer: str
    finished: bool

    @property
    def request(self) -> str:
        return self.messages[-1]["content"]

    @property
    def told(self) -> str:
        """What an error calls it."""
        return f"the answer {self.answer[:60]!r} to {self.request[:60]!r}"


RewardFunction = Callable[[Sample], float]
