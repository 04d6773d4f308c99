"""The objective of online RL: the loss of a policy gradient on sampled tokens, and a KL penalty.

    loss = sum_t w_t (L_t + kl_coef * penalty_t) / tokens of the batch
    rho_t = pi(t) / pi_engine(t),    d_t = log pi(t) - log pi_ref(t)

L is a loss of losses/, its advantages those of advantages/; w weighs the tokens of an answer, so that the mean is over
tokens or over answers. pi_engine is what vLLM said when it drew the token, so that a difference between the two
implementations is corrected for, and logged. Where this is done by weights of its own (correction.py), rho is measured
from the policy at the first step of the rollout, and all losses of a token have its weight.

The penalty's gradient is that of KL(pi || pi_ref), which k3 alone has not: as a term of a loss, whose samples are held
fixed, that one descends KL(pi_ref || pi).

    token:     penalty_t = rho_t * k3_t,  k3_t = exp(-d_t) + d_t - 1  (DeepSeek-V3.2, arXiv:2512.02556, eq. 7)
    sequence:  penalty_t = rho_t * sum_{s >= t} d_s, the sum held fixed

`token` has the gradient of the KL at each token, the tokens before it held fixed; `sequence` that of the KL of whole
completions, to which an earlier token also contributes by where it leads, at a higher variance. A penalty that is part
of the reward has this gradient by itself, and is no term here.

A critic adds its own loss (critic.py), a mean over tokens.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.stages.alignment.correction import Correction
from pipelines.stages.alignment.critic import Critic, value_losses
from pipelines.stages.alignment.logprobs import scattered, spread
from pipelines.stages.alignment.losses.loss import PolicyLoss
from pipelines.stages.alignment.shared_prompts import Asked, asked
from pipelines.stages.training.objectives.objective import Objective
from pipelines.stages.training.objectives.output_layer import OutputLayer

ROLLOUT_GAP = "rollout_logprob_gap"  # |log pi - log pi_engine|, mean over the tokens of the batch
CLIPPED = "clip_fraction"  # share of the tokens whose gradient a bound took
ENTROPY = "entropy"  # nats per token, estimated by -log pi of the drawn tokens
VALUE_LOSS = "value_loss"  # of the critic, mean over the tokens of the batch
VALUE_CLIPPED = "value_clip_fraction"  # share of the tokens of which a bound took the critic's gradient
CORRECTION = "correction_weight"  # mean over the tokens of the batch
CORRECTION_BOUNDED = "correction_bounded_fraction"  # share of the tokens whose weight the bound changed
PROXIMAL = "proximal"  # log-probabilities of the policy when the first step learns from a rollout

KlPenalty = Literal["token", "sequence"]


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(pi || ref) at tokens drawn from pi (nats), never negative (Schulman, "Approximating KL
    divergence", 2020): of the value, not of the gradient."""
    difference = reference - logprobs
    return difference.exp() - difference - 1


def kl_penalties(logprobs: Tensor, behaviour: Tensor, reference: Tensor, learn: Tensor, kind: KlPenalty) -> Tensor:
    """The penalty of each learned token; all are (batch, length), what is returned is 0 elsewhere."""
    ratio = (logprobs - behaviour).where(learn, 0).exp()
    if kind == "token":
        return (ratio * k3(logprobs, reference)).where(learn, 0)
    differences = (logprobs - reference).detach().where(learn, 0).flip(1)
    return (ratio * differences.cumsum(1).flip(1)).where(learn, 0)


class PolicyGradient(Objective):
    """tokens (batch, length + 1); learn, behaviour (batch, length); weights (batch,); advantages (batch,) of answers or
    (batch, length) of tokens; where there is a penalty, reference (batch, length); for a critic values, what it said at
    the rollout, and returns, what it should have said (batch, length); for a correction proximal (batch, length), where
    the step is not the first of its rollout. Without advantages it is asked: with learn for the policy's
    log-probabilities of those tokens, with valued (batch, length) for what the critic expects before them.
    """

    names: tuple[str, ...] = (ROLLOUT_GAP, CLIPPED, ENTROPY)

    def __init__(
        self,
        model: torch.nn.Module,
        precision: str,
        *,
        loss: PolicyLoss,
        kl_coef: float,
        kl_penalty: KlPenalty,
        temperature: float,
        critic: Critic | None = None,
        correction: Correction | None = None,
    ) -> None:
        if correction is not None:
            self.names = (*self.names, CORRECTION, CORRECTION_BOUNDED)
        if critic is not None:
            self.names = (*self.names, VALUE_LOSS, VALUE_CLIPPED)
        super().__init__(model, precision)
        self.loss, self.temperature = loss, temperature
        self.kl_coef, self.kl_penalty = kl_coef, kl_penalty  # the coefficient of the step that is being taken
        self.critic, self.correction = critic, correction
        self.output_layer = OutputLayer.of(model)

    def beside(self) -> list[tuple[torch.nn.Module, float]]:
        return [(self.critic, self.critic.fields.rate)] if self.critic is not None else []

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        tokens = batch["tokens"]
        if "advantages" not in batch:
            if "valued" in batch:
                return spread(self._values(tokens, batch["valued"]), batch["valued"])
            return self.told(tokens, batch["learn"])[0]
        learn, behaviour = batch["learn"], batch["behaviour"]
        logprobs, values = self.told(tokens, learn)
        gap = log_ratio = (logprobs - behaviour).where(learn, 0)
        if self.correction is not None:
            proximal = batch[PROXIMAL] if PROXIMAL in batch else logprobs.detach()
            log_ratio, (corrected, bounded) = logprobs - proximal, self.correction.of(proximal - behaviour, learn)
            log_ratio, behaviour = log_ratio.where(learn, 0), proximal
        advantages = batch["advantages"]
        advantages = advantages if advantages.dim() > 1 else advantages.unsqueeze(1)
        losses, clipped = self.loss.of(logprobs, log_ratio, advantages, learn)
        sums = [gap.abs().sum(), (clipped & learn).sum(), -logprobs[learn].sum()]
        if self.kl_coef:
            penalty = kl_penalties(logprobs, behaviour, batch["reference"], learn, self.kl_penalty)
            losses = losses + self.kl_coef * penalty
        if self.correction is not None:
            losses = losses * corrected
            sums += [corrected[learn].sum(), (bounded & learn).sum()]
        total = (losses * batch["weights"].unsqueeze(1))[learn].sum()
        if self.critic is not None and values is not None:
            fields = self.critic.fields
            of_values, taken = value_losses(values, batch["values"], batch["returns"], fields.clip)
            sums += [of_values[learn].sum(), (taken & learn).sum()]
            total = total + fields.coef * of_values[learn].sum()
        self.add_sums(*sums)
        return total

    def told(self, tokens: Tensor, learn: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (batch, length) of tokens[:, 1:] (batch, length + 1) where they are learned, 0 elsewhere,
        and what the critic expects before each."""
        text = asked(self.model, tokens, learn)
        with self.output_layer.asked_at(text.told_from, text.inputs.size(1)):
            logits, values = self.outputs(text, self._valued(tokens, learn) or text)
        found = scattered(logits, tokens, self.temperature, learn)
        return found, None if values is None else spread(values, learn)

    def outputs(self, text: Asked, valued: Asked) -> tuple[Tensor, Tensor | None]:
        """Logits of the tokens that are asked for, and the critic's values (learned,) of those that it is."""
        with self.autocast(text.inputs):
            within = self.critic is not None and self.critic.trunk is None
            others = text.others | ({"output_hidden_states": True} if within else {})
            output: Any = self.model(text.inputs, use_cache=False, **others)
            if self.critic is None:
                return output.logits, None
            return output.logits, self.critic(valued, output.hidden_states[-1] if within else None)

    def _valued(self, tokens: Tensor, learn: Tensor) -> Asked | None:
        """What a critic with a model of its own is asked."""
        if self.critic is None or self.critic.trunk is None:
            return None
        return asked(self.critic.trunk, tokens, learn)

    def _values(self, tokens: Tensor, learn: Tensor) -> Tensor:
        """What the critic expects before the tokens to learn (learned,)."""
        assert self.critic is not None
        valued = self._valued(tokens, learn)
        with self.autocast(tokens):
            if valued is not None:
                return self.critic(valued)
            model: Any = self.model
            text, base = asked(model, tokens, learn), getattr(model, model.base_model_prefix)
            return self.critic(text, base(text.inputs, use_cache=False, **text.others).last_hidden_state)
