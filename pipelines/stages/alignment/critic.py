"""The critic of PPO: what an answer will be worth, told before each of its tokens.

It is trained by the policy's engine, whose optimizer has groups of its own for it: one backward pass, one checkpoint,
one step. A model of its own costs as much as the policy again; a head on the policy costs nothing, and pulls at layers
that have another work to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.stages.alignment.advantages.advantage import ValueFunction
from pipelines.stages.alignment.shared_prompts import Asked
from pipelines.stages.training.models.models import load_model


class Critic(nn.Module):
    """A linear head on the last hidden states of a model of its own, `trunk`, or of the policy, where that is None."""

    def __init__(self, fields: ValueFunction, trunk: nn.Module | None, score: nn.Linear) -> None:
        super().__init__()
        self.fields = fields
        self.trunk, self.score = trunk, score

    @classmethod
    def of(cls, fields: ValueFunction, policy: Any, folder: Path, reward: Path | None) -> Critic:
        """A critic at its beginning; `folder` holds the policy, `reward` the reward model."""
        if fields.start == "reward":
            from transformers import AutoModelForSequenceClassification

            assert reward is not None
            whole = AutoModelForSequenceClassification.from_pretrained(
                reward, dtype=torch.float32, attn_implementation="sdpa"
            )
            return cls(fields, getattr(whole, whole.base_model_prefix), whole.score)
        score = nn.Linear(policy.config.get_text_config().hidden_size, 1)
        for parameter in score.parameters():
            nn.init.zeros_(parameter)
        whole = None if fields.start == "head" else load_model(folder)
        return cls(fields, None if whole is None else getattr(whole, whole.base_model_prefix), score)

    def forward(self, text: Asked, hidden: Tensor | None = None) -> Tensor:
        """What is expected before each learned token (learned,), fp32; `hidden` (rows, length, size) are the policy's
        states, of a critic without a trunk."""
        if self.trunk is not None:
            hidden = self.trunk(text.inputs, use_cache=False, **text.others).last_hidden_state
        assert hidden is not None
        values: Tensor = self.score(hidden.flatten(0, 1).index_select(0, text.told_from)).squeeze(-1).float()
        return values

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        if self.trunk is not None:
            self.trunk.gradient_checkpointing_enable(**options)


def value_losses(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """max((V - R)^2, (V_clipped - R)^2) / 2 of each token, and whether the bound took its gradient. V_clipped is
    V, no further than `clip` from what it was at the rollout, `before`; at `clip` 0 there is no bound."""
    losses = (values - returns).square()
    if not clip:
        return losses / 2, torch.zeros_like(losses, dtype=torch.bool)
    bounded = (before + (values - before).clamp(-clip, clip) - returns).square()
    return torch.maximum(losses, bounded) / 2, bounded > losses


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(R - V) / Var(R) of all given: 1 is a critic that knows, 0 one that knows no more than the mean, below 0
    one that is worse. Returns that are all alike leave nothing to explain: 0."""
    variance = float(returns.var(unbiased=False))
    return 1 - float((returns - values).var(unbiased=False)) / variance if variance > 0 else 0.0
