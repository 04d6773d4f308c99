"""A reward model behind an endpoint (`ctl serve up reward/mine`), asked at its score route: it may be larger than the
training's machine has room for, and serve several runs at once.

It is deterministic up to its engine's last bits, which may depend on what else the endpoint computes at that moment.
"""

from __future__ import annotations

import json
import math
import os
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from cluster.core.errors import NotReadyError, SpecError
from cluster.core.retry_after import retry_after
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

BUSY = (429, 502, 503, 504)  # another replica, or a moment later
WAIT_SECONDS = 1.0  # where the endpoint does not say
PROBE_SECONDS = 10.0
LETTERS = 300  # of what an endpoint says of its refusal


class ServedRewardModel(Reward, frozen=True):
    """The sigmoid of the model's score for the conversation with the answer; of one that was cut off, as far as it
    came. An endpoint that is busy is asked again as long as `timeout_seconds` lasts."""

    url: str = "http://127.0.0.1:8000/v1"
    """Its base URL."""
    model: str = ""
    """Name of the model, as the endpoint lists it; empty: its own."""
    api_key_env: str = ""
    """Environment variable that holds the key; empty: the endpoint asks for none. The key itself is kept nowhere."""

    def check(self, where: str) -> None:
        super().check(where)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise SpecError(f"{where}.url: {self.url!r} is no address", "Write it as http://HOST:PORT/v1.")

    def require(self) -> None:
        """The endpoint is asked for a score before a run starts."""
        try:
            self._score([{"role": "user", "content": "?"}], "?", True, PROBE_SECONDS)
        except (OSError, ValueError) as error:
            raise NotReadyError(
                f"{self.url} gives no scores: {error}", "Serve the reward model: `ctl serve up reward/mine`."
            ) from None

    def of(self, sample: Sample) -> float:
        return 1 / (1 + math.exp(-self._score(sample.messages, sample.answer, sample.finished, self.timeout_seconds)))

    def _score(self, messages: list[dict[str, Any]], answer: str, finished: bool, seconds: float) -> float:
        """Raises ValueError for a refusal, OSError where nobody answers."""
        body = {"queries": messages, "documents": answer, "truncate_prompt_tokens": -1}
        body |= {"model": self.model} if self.model else {}
        body |= {} if finished else {"continue_final_message": True}
        headers = {"Content-Type": "application/json"}
        if self.api_key_env:
            headers["Authorization"] = f"Bearer {os.environ.get(self.api_key_env, '').strip()}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/score", json.dumps(body).encode(), headers)
        end = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(request, timeout=seconds) as reply:
                    return float(json.loads(reply.read())["data"][0]["score"])
            except urllib.error.HTTPError as error:
                told = error.read().decode(errors="replace")[:LETTERS]
                wait = retry_after(error.headers) or WAIT_SECONDS
                if error.code not in BUSY or time.monotonic() + wait > end:
                    raise ValueError(f"{error.code}: {told}") from None
                time.sleep(wait)
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(f"an answer of another form: {error}") from None
