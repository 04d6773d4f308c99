"""A bounded queue before an engine: what would wait behind too much is refused at once, and told when to ask again.

An engine takes whatever it is given and makes everybody wait. Here a replica's answers are counted, those of `n` and of
several prompts each: as many as the engine computes at once, and behind them as many as may wait. Others are refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serving.limits import Refused

GENERATED = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
POOLED = ("/v1/embeddings", "/v1/score", "/score", "/v1/rerank", "/rerank", "/pooling")
COMPUTED = (*GENERATED, *POOLED)  # what the engine computes an answer for
WEIGHT = 0.1  # of the last answer in the mean of how long they take
LONGEST_SECONDS = 60.0  # that a client is told to wait


class Admission:
    """Room for the answers of one replica. `running` are computed at once, `queued` may wait for that."""

    def __init__(self, running: int, queued: int) -> None:
        self.running, self.queued = running, queued
        self.begun = 0
        self.mean_seconds = 0.0  # that an answer takes, its wait included

    def check(self) -> None:
        """Raise Refused where the queue is full; before a body is read, and when it has been."""
        if self.begun >= self.running + self.queued:
            raise Refused(
                429,
                f"this endpoint has {self.begun} answers begun or waiting, and takes no more just now",
                kind="rate_limit_error",
                code="endpoint_overloaded",
                headers={"Retry-After": str(self.retry_seconds())},
            )

    def retry_seconds(self) -> int:
        """When the queue will be half as long, about: of Little's law, with how long answers took until now."""
        return math.ceil(
            min(max(self.mean_seconds * self.queued / 2 / max(1, self.running + self.queued), 1), LONGEST_SECONDS)
        )

    @contextmanager
    def place(self, asked: dict[str, Any]) -> Iterator[None]:
        """A place for what is asked as long as it is answered. Raises Refused.

        A request of several answers comes in where there is room for one: else it might never.
        """
        self.check()
        count, began = answers(asked), time.monotonic()
        self.begun += count
        try:
            yield
        finally:
            self.begun -= count
            took = time.monotonic() - began
            self.mean_seconds += (took - self.mean_seconds) * (WEIGHT if self.mean_seconds else 1)


def answers(asked: dict[str, Any]) -> int:
    """How many answers a request makes the engine compute."""
    prompt = asked.get("prompt")
    prompts = 1
    if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt):
        prompts = len(prompt)
    each = [value for name in ("n", "best_of") if isinstance(value := asked.get(name), int)]
    return max(1, *each, 1) * prompts
