"""A bounded queue before an engine: what would wait behind too much is refused at once, and told when to ask again.

An engine takes whatever it is given and makes everybody wait. Here a replica's answers are counted, those of `n` and of
several prompts each: as many as the engine computes at once, and behind them as many as may wait. Where a longest wait
is promised, the wait is estimated too: how many are before an answer, by how fast answers end while the engine is full.
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
REMEMBERED = 4  # times as many answers as are computed at once: those begun together end together
LONGEST_SECONDS = 60.0  # that a client is told to wait


class Admission:
    """Room for the answers of one replica. `running` are computed at once, `queued` may wait for that, each for
    `max_wait_seconds` by estimate (0: as long as it takes)."""

    def __init__(self, running: int, queued: int, max_wait_seconds: float = 0.0) -> None:
        self.running, self.queued, self.max_wait_seconds = running, queued, max_wait_seconds
        self.begun = 0
        self._keeps = 1 - 1 / (REMEMBERED * max(1, running))
        # Of the last answers that ended while the engine was full, older ones count less: how many, in what time.
        self._ended = self._seconds = 0.0
        self._since = 0.0  # when the engine became full, or the last answer ended while it was

    def check(self) -> None:
        """Raise Refused where the queue is full or its wait too long; before a body is read, and when it has been."""
        too_long = self.max_wait_seconds and self.wait_seconds() > self.max_wait_seconds
        if too_long or self.begun >= self.running + self.queued:
            raise Refused(
                429,
                f"this endpoint has {self.begun} answers begun or waiting, and takes no more just now",
                kind="rate_limit_error",
                code="endpoint_overloaded",
                headers={"Retry-After": str(self.retry_seconds())},
            )

    def wait_seconds(self) -> float:
        """How long an answer that comes now would wait to begin, about; 0 where that is not known yet."""
        if self.begun < self.running or self._ended < self.running:
            return 0.0
        return (self.begun - self.running + 1) * self._seconds_each()

    def retry_seconds(self) -> int:
        """When the queue will be half as long, about."""
        each = self._seconds_each() if self._ended else 0.0
        return math.ceil(min(max(each * self.queued / 2, 1), LONGEST_SECONDS))

    def _seconds_each(self) -> float:
        """Between two answers that end while the engine is full; more where none has ended for longer than that."""
        now = time.monotonic() - self._since if self.begun >= self.running else 0.0
        return max(self._seconds / self._ended, (self._seconds + now) / (self._ended + 1))

    @contextmanager
    def place(self, asked: dict[str, Any]) -> Iterator[None]:
        """A place for what is asked as long as it is answered. Raises Refused.

        A request of several answers comes in where there is room for one: else it might never.
        """
        self.check()
        count = answers(asked)
        if self.begun < self.running <= self.begun + count:
            self._since = time.monotonic()
        self.begun += count
        try:
            yield
        finally:
            if self.begun >= self.running:
                self._note(count)
            self.begun -= count

    def _note(self, count: int) -> None:
        """So many answers have ended while the engine was full."""
        now, keeps = time.monotonic(), self._keeps**count
        self._ended = self._ended * keeps + count
        self._seconds = self._seconds * keeps + now - self._since
        self._since = now


def answers(asked: dict[str, Any]) -> int:
    """How many answers a request makes the engine compute."""
    prompt = asked.get("prompt")
    prompts = 1
    if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt):
        prompts = len(prompt)
    each = [value for name in ("n", "best_of") if isinstance(value := asked.get(name), int)]
    return max(1, *each, 1) * prompts
