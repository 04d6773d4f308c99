"""AdamW (Loshchilov and Hutter, arXiv:1711.05101), element by element, hence on any shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adamw import adamw

from pipelines.stages.training.optimizers.rule import FP32_BYTES, Rule, Sharded
from pipelines.stages.training.spec import TrainingSpec


class AdamW(Rule):
    """On all weights; of the others' groups too it is the rule of what they leave."""

    def groups(
        self, spec: TrainingSpec, hidden: Mapping[Parameter, float], rest: list[Parameter]
    ) -> list[dict[str, Any]]:
        return [{"params": list(hidden), "weight_decay": spec.weight_decay, **options(spec)}, plain(spec, rest)]

    def update(self, optimizer: Sharded, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [optimizer.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def state_bytes(self, parameter: Tensor) -> float:
        return 2 * FP32_BYTES * parameter.numel()


def options(spec: TrainingSpec) -> dict[str, Any]:
    """What a group under AdamW needs besides its weights and their decay."""
    return {"rule": "adamw", "peak": spec.learning_rate, "betas": (spec.beta1, spec.beta2), "eps": 1e-8}


def plain(spec: TrainingSpec, parameters: list[Parameter]) -> dict[str, Any]:
    """A group under AdamW without weight decay."""
    return {"params": parameters, "weight_decay": 0.0, **options(spec)}


RULE = AdamW()
