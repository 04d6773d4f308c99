"""Correcting for tokens that other weights, or another implementation, drew: importance sampling that is bounded.

    loss_t = w_t * L(pi(t) / pi_prox(t)),    w_t = pi_prox(t) / pi_engine(t)

pi_prox is the policy when the first step learns from the rollout, pi_engine what vLLM said when it drew the token, with
the weights of the version that drew it. So the clip of L bounds how far the steps of one rollout move the policy, and w
makes up for all that had happened before: decoupled PPO (Hilton et al. 2021, arXiv:2110.00641; AReaL, Fu et al. 2025,
arXiv:2505.24298). w is held fixed. Truncated: min(w, bound) (Yao et al. 2025, "Your efficient RL framework secretly
brings you off-policy RL training"); masked: 0 where it is beyond the bound on either side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from torch import Tensor


class Correction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weights of importance sampling, and their bound."""

    kind: Literal["truncated", "masked"] = "truncated"
    """`truncated`: a weight is `bound` at most; `masked`: nothing is learned where it is above `bound` or below
    1 / `bound`."""
    over: Literal["token", "sequence"] = "token"
    """The weight is of each token, or the product of those of an answer, which is unbiased and varies more."""
    bound: Annotated[float, Meta(gt=1)] = 2.0
    """Bound on the weight."""

    def of(self, log_ratio: Tensor, learn: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of each token, and whether the bound changed it: both (batch, length), of `log_ratio`
        (batch, length), log pi_prox - log pi_engine in nats. What is returned of tokens that `learn` leaves out is not
        looked at."""
        log_ratio = log_ratio.detach().where(learn, 0)
        if self.over == "sequence":
            log_ratio = log_ratio.sum(1, keepdim=True).expand_as(log_ratio)
        weights = log_ratio.clamp(max=80).exp()  # fp32 ends at 88
        if self.kind == "truncated":
            return weights.clamp(max=self.bound), weights > self.bound
        beyond = (weights > self.bound) | (weights < 1 / self.bound)
        return weights.where(~beyond, 0), beyond
