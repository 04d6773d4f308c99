"""What every loss of a policy gradient is: a struct of its fields and one method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cluster.core.specs.naming import snake

if TYPE_CHECKING:
    from torch import Tensor


class PolicyLoss(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=snake):
    """Base of all losses. In YAML `type` tells them apart."""

    def of(self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, learn: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each token, to be minimized, and whether a bound took its gradient: both (batch, length).

        `logprobs` are the policy's, `log_ratio` what they are above those of the engine that drew the tokens,
        `advantages` (batch, 1), all in nats or of no unit; `learn` (batch, length) says which tokens were drawn. What
        is returned of others is not looked at.
        """
        raise NotImplementedError
