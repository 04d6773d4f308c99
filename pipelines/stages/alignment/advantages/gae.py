"""Generalized advantage estimation, by a critic (Schulman et al. 2016, arXiv:1506.02438, equation 16): PPO's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from pipelines.stages.alignment.advantages.advantage import (
    Advantage,
    Drawn,
    Judged,
    ValueFunction,
    discounted,
    whitened,
)

if TYPE_CHECKING:
    pass


class Gae(Advantage, frozen=True):
    """A_t = sum_s (gamma lam)^s delta_(t+s), delta_t = r_t + gamma V_(t+1) - V_t; behind the end of an answer, cut off
    or not, nothing is expected. The critic learns A_t + V_t."""

    compares: ClassVar[bool] = False
    gamma: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """What a reward is worth one token earlier (Ziegler et al. 2019, arXiv:1909.08593: 1)."""
    lam: Annotated[float, Meta(ge=0, le=1)] = 0.95
    """lambda: 1 trusts the rewards alone, 0 what the critic expects after the next token (Ziegler et al.: 0.95)."""
    whiten: bool = True
    """Take mean and standard deviation of all tokens of the rollout out of the advantages."""
    critic: ValueFunction = ValueFunction()
    """The critic: where it begins, its rate, its loss."""

    @property
    def takes_steps(self) -> bool:
        return True

    @property
    def value_function(self) -> ValueFunction:
        return self.critic

    def of_tokens(self, drawn: Drawn) -> Judged:
        import torch

        assert drawn.values is not None
        values = drawn.values.double().where(drawn.learn, 0)
        after = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], 1)
        delta = drawn.by_token() + self.gamma * after - values
        known = drawn.learn if drawn.present is None else drawn.learn & drawn.present.unsqueeze(1)
        found = discounted(delta, self.gamma * self.lam).where(known, 0)
        return Judged(whitened(found, known) if self.whiten else found, (found + values).where(drawn.learn, 0))
