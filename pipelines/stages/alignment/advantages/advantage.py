"""What every advantage is: a struct of its fields and one method, how much better an answer is than expected.

Most judge whole answers by their rewards: `of`. One that judges single tokens overrides `of_tokens`, and says whether
it needs a critic (`value_function`) or a teacher (`teaches`): the stage brings them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from cluster.core.specs.naming import snake

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-4


class ValueFunction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A critic, which learns beside the policy what an answer will be worth, from what there is of it."""

    start: Literal["policy", "reward", "head"] = "policy"
    """What it begins as: `policy`, a copy of the policy with a head of zeros; `reward`, the reward model, its head
    included; `head`, no model of its own: a head of zeros on the policy, whose layers then learn both."""
    rate: Annotated[float, Meta(gt=0)] = 10.0
    """Its learning rates, in multiples of the policy's (of `head`: the head's alone)."""
    coef: Annotated[float, Meta(gt=0)] = 0.1
    """Weight of its loss beside the policy's. Both gradients have one norm, which is clipped; AdamW and Muon do not
    care about the scale of what is left."""
    clip: Annotated[float, Meta(ge=0)] = 0.2
    """A value that has moved further than this since the rollout learns no more of it (Schulman et al. 2017, OpenAI's
    baselines); 0: no bound."""


@dataclass(frozen=True)
class Drawn:
    """What is known of the n answers of a rollout, `length` tokens at most, groups of answers to one prompt beside each
    other. What stands behind the end of an answer is 0."""

    rewards: Tensor  # (n,)
    group_size: int
    learn: Tensor  # (n, length) bool: what was drawn
    token_rewards: Tensor | None = None  # (n, length): what each token brought besides, the KL penalty
    values: Tensor | None = None  # (n, length): what the critic expects before each token
    teacher: Tensor | None = None  # (n, length): log pi_teacher - log pi of what was drawn, in nats
    present: Tensor | None = None  # (n,) bool: which count; of the others a reward failed. None: all do
    by_step: bool = False  # whether rewards of single steps are among `token_rewards`

    def by_token(self) -> Tensor:
        """The reward of each token (n, length) float64, that of the whole answer at its last. One without tokens has
        none."""
        found = self.learn.double() * 0 if self.token_rewards is None else self.token_rewards.double().clone()
        lengths = self.learn.sum(1)
        rows = lengths.nonzero().squeeze(1)
        found[rows, lengths[rows] - 1] += self.rewards[rows].double()
        return found

    def in_sum(self) -> Tensor:
        """The reward of each answer (n,), with what its tokens brought."""
        return self.rewards if self.token_rewards is None else self.rewards + self.token_rewards.sum(1)


@dataclass(frozen=True)
class Judged:
    """Advantages (n,) of whole answers or (n, length) of tokens, and, of a critic, what it should have expected."""

    advantages: Tensor
    returns: Tensor | None = None  # (n, length)


class Advantage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=snake):
    """Base of all advantages. In YAML `type` tells them apart."""

    compares: ClassVar[bool] = True
    """Whether answers to one prompt are compared with one another, so that a group needs two."""
    teaches: ClassVar[bool] = False
    """Whether it is told by a teacher, not by rewards."""

    @property
    def takes_steps(self) -> bool:
        """Whether it can tell which step of an answer a reward belongs to."""
        return False

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def value_function(self) -> ValueFunction | None:
        """The critic that it needs."""
        return None

    def of(self, rewards: Tensor, group_size: int) -> Tensor:
        """Advantages (n,) of rewards (n,), whose groups of answers to one prompt stand one after another."""
        raise NotImplementedError

    def among(self, rewards: Tensor, present: Tensor, group_size: int) -> Tensor:
        """Advantages (n,) of the rewards (n,) that are `present` (n,), as if the others had not been drawn; 0 of those,
        and of one that is left alone where answers are compared."""
        if bool(present.all()):
            return self.of(rewards, group_size)
        found = rewards.new_zeros(rewards.shape)
        sizes = present.view(-1, group_size).sum(1).repeat_interleave(group_size)
        for size in range(2 if self.compares else 1, group_size + 1):
            rows = present & (sizes == size)
            if rows.any():
                found[rows] = self.of(rewards[rows], size)
        return found

    def of_tokens(self, drawn: Drawn) -> Judged:
        """The same of all that is known of the answers: of their tokens, where it tells them apart."""
        rewards = drawn.in_sum()
        if drawn.present is None:
            return Judged(self.of(rewards, drawn.group_size))
        return Judged(self.among(rewards, drawn.present, drawn.group_size))


def discounted(rewards: Tensor, discount: float) -> Tensor:
    """Of each token the sum of its reward and of all later ones (n, length), each step behind it times `discount`."""
    found = rewards.clone()
    for place in reversed(range(rewards.size(1) - 1)):
        found[:, place] += discount * found[:, place + 1]
    return found


def whitened(advantages: Tensor, learn: Tensor) -> Tensor:
    """Advantages (n, length) with mean 0 and standard deviation 1 over what was drawn."""
    known = advantages[learn]
    return ((advantages - known.mean()) / (known.std(unbiased=False) + EPSILON)).where(learn, 0)
