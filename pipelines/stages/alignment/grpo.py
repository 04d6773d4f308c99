"""GRPO: several completions of one prompt are compared with one another, so that no value model is needed.

    A_i = (r_i - mean r) / (std r + eps)                                       over the group of i
    s_t = min(rho_t A, clip(rho_t, 1 - e, 1 + e) A), and where A < 0 no less than c A
    loss = sum_t [ -s_t + kl_coef * penalty_t ] / tokens of the batch
    rho_t = pi(t) / pi_engine(t),    d_t = log pi(t) - log pi_ref(t)

Shao et al. 2024 (arXiv:2402.03300), with the mean over the batch's tokens instead of over each answer's (DAPO,
arXiv:2503.14476) and the second bound of dual clip, c (Ye et al. 2020, arXiv:1912.09729). pi_engine is what vLLM said
when it drew the token, so that a difference between the two implementations is corrected for, and logged.

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

from pipelines.stages.training.objectives.objective import Objective

ROLLOUT_GAP = "rollout_logprob_gap"  # |log pi - log pi_engine|, mean over the tokens of the batch
CLIPPED = "clip_fraction"  # share of the tokens whose ratio was clipped
DUAL_CLIPPED = "dual_clip_fraction"  # share of the tokens whose loss was bounded by dual clip
ENTROPY = "entropy"  # nats per token, estimated by -log pi of the drawn tokens

KlPenalty = Literal["token", "sequence"]


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(pi || ref) at tokens drawn from pi (nats), never negative (Schulman, "Approximating KL
    divergence", 2020): of the value, not of the gradient."""
    difference = reference - logprobs
    return difference.exp() - difference - 1


def kl_penalties(logprobs: Tensor, behaviour: Tensor, reference: Tensor, learn: Tensor, kind: KlPenalty) -> Tensor:
    """The penalty of each learned token: log-probabilities and `learn` are (batch, length), the result (learned,)."""
    ratio = (logprobs - behaviour)[learn].exp()
    if kind == "token":
        return ratio * k3(logprobs[learn], reference[learn])
    differences = ((logprobs - reference).detach() * learn).flip(1)
    return ratio * differences.cumsum(1).flip(1)[learn]


def surrogate(ratio: Tensor, advantages: Tensor, clip_ratio: float, dual_clip: float) -> Tensor:
    """PPO's clipped surrogate of each token, with dual clip: what is to be maximized."""
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    found = torch.minimum(ratio * advantages, clipped * advantages)
    return torch.where(advantages < 0, torch.maximum(found, dual_clip * advantages), found)


def token_logprobs(model: Any, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (batch, length) of tokens[:, 1:] (batch, length + 1) at a temperature."""
    logits = model(tokens[:, :-1], use_cache=False).logits.float() / temperature
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)


class Grpo(Objective):
    """tokens (batch, length + 1); learn, behaviour (batch, length); advantages (batch,); and, where there is a
    penalty, reference (batch, length)."""

    names = (ROLLOUT_GAP, CLIPPED, DUAL_CLIPPED, ENTROPY)

    def __init__(
        self,
        model: torch.nn.Module,
        precision: str,
        *,
        clip_ratio: float,
        dual_clip: float,
        kl_coef: float,
        kl_penalty: KlPenalty,
        temperature: float,
    ) -> None:
        super().__init__(model, precision)
        self.clip_ratio, self.dual_clip, self.temperature = clip_ratio, dual_clip, temperature
        self.kl_coef, self.kl_penalty = kl_coef, kl_penalty

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        learn, behaviour = batch["learn"], batch["behaviour"]
        with self.autocast(batch["tokens"]):
            logprobs = token_logprobs(self.model, batch["tokens"], self.temperature)
        advantages = batch["advantages"].unsqueeze(1).expand_as(learn)[learn]
        drawn = logprobs[learn]
        ratio = (drawn - behaviour[learn]).exp()
        reward = surrogate(ratio, advantages, self.clip_ratio, self.dual_clip)
        self.add_sums(
            (drawn - behaviour[learn]).abs().sum(),
            ((ratio - 1).abs() > self.clip_ratio).sum(),
            ((advantages < 0) & (ratio > self.dual_clip)).sum(),
            -drawn.sum(),
        )
        if not self.kl_coef:
            return -reward.sum()
        penalty = kl_penalties(logprobs, behaviour, batch["reference"], learn, self.kl_penalty)
        return (self.kl_coef * penalty - reward).sum()
