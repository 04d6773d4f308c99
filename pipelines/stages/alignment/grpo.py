"""GRPO: several completions of one prompt are compared with one another, so that no value model is needed.

    A_i = (r_i - mean r) / (std r + eps)                                       over the group of i
    loss = sum_t [ -min(rho_t A, clip(rho_t, 1 - e, 1 + e) A) + kl_coef * k3_t ] / tokens of the batch
    rho_t = pi(t) / pi_engine(t),    k3_t = pi_ref(t) / pi(t) - log(pi_ref(t) / pi(t)) - 1

Shao et al. 2024 (arXiv:2402.03300), with the mean over the batch's tokens instead of over each answer's (DAPO,
arXiv:2503.14476), and k3 after Schulman ("Approximating KL divergence", 2020). pi_engine is what vLLM said when it
drew the token, so that a difference between the two implementations is corrected for, and logged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipelines.stages.training.objectives.objective import Objective

ROLLOUT_GAP = "rollout_logprob_gap"  # |log pi - log pi_engine|, mean over the tokens of the batch
CLIPPED = "clip_fraction"  # share of the tokens whose ratio was clipped
ENTROPY = "entropy"  # nats per token, estimated by -log pi of the drawn tokens


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(pi || ref) at tokens drawn from pi (nats), never negative. As a term of the loss, whose samples
    are held fixed, its gradient is that of KL(ref || pi)."""
    difference = reference - logprobs
    return difference.exp() - difference - 1


def token_logprobs(model: Any, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (batch, length) of tokens[:, 1:] (batch, length + 1) at a temperature."""
    logits = model(tokens[:, :-1], use_cache=False).logits.float() / temperature
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)


class Grpo(Objective):
    """tokens (batch, length + 1); learn, behaviour, reference (batch, length); advantages (batch,)."""

    names = (ROLLOUT_GAP, CLIPPED, ENTROPY)

    def __init__(
        self, model: torch.nn.Module, precision: str, clip_ratio: float, kl_coef: float, temperature: float
    ) -> None:
        super().__init__(model, precision)
        self.clip_ratio, self.kl_coef, self.temperature = clip_ratio, kl_coef, temperature

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        learn = batch["learn"]
        with self.autocast(batch["tokens"]):
            found = token_logprobs(self.model, batch["tokens"], self.temperature)
        logprobs, behaviour, reference = found[learn], batch["behaviour"][learn], batch["reference"][learn]
        advantages = batch["advantages"].unsqueeze(1).expand_as(learn)[learn]
        ratio = (logprobs - behaviour).exp()
        clipped = ratio.clamp(1 - self.clip_ratio, 1 + self.clip_ratio)
        surrogate = torch.minimum(ratio * advantages, clipped * advantages)
        self.add_sums((logprobs - behaviour).abs().sum(), (ratio != clipped).sum(), -logprobs.sum())
        return (self.kl_coef * k3(logprobs, reference) - surrogate).sum()
