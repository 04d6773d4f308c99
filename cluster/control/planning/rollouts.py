"""What RLHF needs beside training: engines that sample, and what could be left out where memory is short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.core.errors import SpecError


@dataclass(frozen=True)
class RolloutEngines:
    """What each of `number` engines holds that sample completions, in bytes. On GPUs, which are theirs alone, the KV
    cache is what is left of the share that vLLM takes, less than nothing where the weights are too large."""

    number: int
    on_gpus: bool
    weights: int
    kv_cache: int
    runtime: int
    kv_bytes_per_token: int
    sequence_tokens: int  # of the longest prompt with the longest completion

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.runtime

    @property
    def sequences(self) -> int:
        """So long that the KV cache holds at once; more wait for their turn."""
        return max(0, self.kv_cache // (self.kv_bytes_per_token * self.sequence_tokens))

    def require_room(self, key: str) -> None:
        """Raise SpecError where the longest sequence has no room; `key` is the step's."""
        if self.sequences:
            return
        cache, needed = max(0, self.kv_cache), self.kv_bytes_per_token * self.sequence_tokens
        raise SpecError(
            f"{key}: a rollout engine has {cache / 1e9:,.2f} GB for its KV cache, and one prompt with its completion "
            f"may need {needed / 1e9:,.2f} GB ({self.sequence_tokens:,} tokens)",
            f"Lower {key}.max_prompt_tokens or {key}.max_completion_tokens, or take a smaller model"
            + (", or GPUs with more memory." if self.on_gpus else "."),
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "on_gpus": self.on_gpus,
            "weights_bytes": self.weights,
            "kv_cache_bytes": self.kv_cache,
            "runtime_bytes": self.runtime,
            "total_bytes": self.total,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "sequence_tokens": self.sequence_tokens,
            "sequences": self.sequences,
        }


@dataclass(frozen=True)
class Saving:
    """A setting that spares memory of a worker and changes what is learned, so that it is nobody's to choose but the
    user's."""

    setting: str
    bytes: int
    price: str  # what is lost by it
