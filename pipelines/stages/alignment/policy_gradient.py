"""The objective of online RL: the loss of a policy gradient on sampled tokens, and a KL penalty.

    loss = sum_t w_t (L_t + kl_coef * penalty_t) / tokens of the batch
    rho_t = pi(t) / pi_engine(t),    d_t = log pi(t) - log pi_ref(t)

L is a loss of losses/, its advantages those of advantages/; w weighs the tokens of an answer, so that the mean is over
tokens or over answers. pi_engine is what vLLM said when it drew the token, so that a difference between the two
implementations is corrected for, and logged.

The penalty's gradient is that of KL(pi || pi_ref), which k3 alone has not: as a term of a loss, whose samples are held
fixed, that one descends KL(pi_ref || pi).

    token:     penalty_t = rho_t * k3_t,  k3_t = exp(-d_t) + d_t - 1  (DeepSeek-V3.2, arXiv:2512.02556, eq. 7)
    sequence:  penalty_t = rho_t * sum_{s >= t} d_s, the sum held fixed

`token` has the gradient of the KL at each token, the tokens before it held fixed; `sequence` that of the KL of whole
completions, to which an earlier token also contributes by where it leads, at a higher variance.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.stages.alignment.losses.loss import PolicyLoss
from pipelines.stages.training.objectives.objective import Objective

ROLLOUT_GAP = "rollout_logprob_gap"  # |log pi - log pi_engine|, mean over the tokens of the batch
CLIPPED = "clip_fraction"  # share of the tokens whose gradient a bound took
ENTROPY = "entropy"  # nats per token, estimated by -log pi of the drawn tokens

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


def token_logprobs(model: Any, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (batch, length) of tokens[:, 1:] (batch, length + 1) at a temperature."""
    logits = model(tokens[:, :-1], use_cache=False).logits.float() / temperature
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)


class PolicyGradient(Objective):
    """tokens (batch, length + 1); learn, behaviour (batch, length); advantages, weights (batch,); and, where there is
    a penalty, reference (batch, length)."""

    names = (ROLLOUT_GAP, CLIPPED, ENTROPY)

    def __init__(
        self,
        model: torch.nn.Module,
        precision: str,
        *,
        loss: PolicyLoss,
        kl_coef: float,
        kl_penalty: KlPenalty,
        temperature: float,
    ) -> None:
        super().__init__(model, precision)
        self.loss, self.temperature = loss, temperature
        self.kl_coef, self.kl_penalty = kl_coef, kl_penalty

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        learn, behaviour = batch["learn"], batch["behaviour"]
        with self.autocast(batch["tokens"]):
            logprobs = token_logprobs(self.model, batch["tokens"], self.temperature)
        log_ratio = (logprobs - behaviour).where(learn, 0)
        losses, clipped = self.loss.of(logprobs, log_ratio, batch["advantages"].unsqueeze(1), learn)
        self.add_sums(log_ratio.abs().sum(), (clipped & learn).sum(), -logprobs[learn].sum())
        if self.kl_coef:
            penalty = kl_penalties(logprobs, behaviour, batch["reference"], learn, self.kl_penalty)
            losses = losses + self.kl_coef * penalty
        return (losses * batch["weights"].unsqueeze(1))[learn].sum()
