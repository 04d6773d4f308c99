"""What every loss on preferences is: a struct of its fields, an implicit reward, and a loss of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import msgspec

from cluster.core.specs.naming import snake

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """Answers to be judged, all tensors (answers,): the sum of the policy's log-probabilities of each one's tokens
    (nats), the same sum of the reference's (0 where the loss has none), and the number of those tokens, 1 at least."""

    logprobs: Tensor
    reference: Tensor
    tokens: Tensor

    @property
    def log_ratios(self) -> Tensor:
        """log pi(y | x) - log pi_ref(y | x), in nats."""
        return self.logprobs - self.reference

    @property
    def means(self) -> Tensor:
        """The policy's log-probability of a token, on average (nats)."""
        return self.logprobs / self.tokens


class PreferenceLoss(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=snake
):
    """Base of all losses. In YAML `type` tells them apart."""

    paired: ClassVar[bool] = True
    """Whether it compares the two answers of a pair (`of_pairs`); if not, it judges answers one by one (`of_each`)."""
    compares_with_start: ClassVar[bool] = True
    """Whether it measures from a reference, the model that training starts from."""

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    def rewards(self, answers: Answers) -> Tensor:
        """What the loss takes for the reward of each answer, (answers,)."""
        raise NotImplementedError

    def of_pairs(self, chosen: Answers, rejected: Answers) -> Tensor:
        """The loss of each pair, (pairs,)."""
        raise NotImplementedError

    def of_each(self, answers: Answers, desirable: Tensor, baseline: Tensor) -> Tensor:
        """The loss of each answer, (answers,). `desirable` (answers,) bool; `baseline`, a scalar in nats: the mean log
        ratio of the batch's answers to requests of others, which estimates KL(pi || pi_ref)."""
        raise NotImplementedError
