"""A KL coefficient that follows the KL (Ziegler et al. 2019, arXiv:1909.08593, section 2.2)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

BOUND = 0.2  # of the error of one rollout, as published


class AdaptiveKl(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coefficient grows where the KL of a rollout is above its target, and falls where it is below:
    c <- c (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), n the completions of the rollout."""

    start: Annotated[float, Meta(gt=0)] = 0.05
    """The first rollout's coefficient."""
    target: Annotated[float, Meta(gt=0)] = 0.1
    """KL to keep, nats per token."""
    horizon: Annotated[int, Meta(ge=1)] = 10_000
    """Completions over which an error of 1 would change the coefficient by its own size (as published)."""

    def after(self, coefficient: float, kl: float, completions: int) -> float:
        """The next rollout's coefficient, by the KL (nats per token) of this one's completions."""
        error = min(max(kl / self.target - 1, -BOUND), BOUND)
        return coefficient * (1 + error * completions / self.horizon)
