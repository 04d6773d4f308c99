"""How far the policy is from the model that it started from, by the tokens that were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.stages.alignment.policy_gradient import k3


class Divergence(NamedTuple):
    """Nats per token: KL(policy || start), which the penalty descends, and KL(start || policy), which grows where the
    policy leaves out what the start says."""

    kl: float
    forward_kl: float


def forward(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(ref || pi) at tokens drawn from pi (nats), never negative: rho log rho - (rho - 1), where rho is
    ref / pi, whose expectation is 1."""
    difference = reference - logprobs
    return difference.exp() * difference - torch.expm1(difference)


def divergence(batches: Sequence[dict[str, Tensor]], tokens: int) -> Divergence:
    """Over the micro-batches of all ranks with `tokens` drawn tokens, by what the engine said when it drew them."""
    summed = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        drawn = [figure(batch["behaviour"], batch["reference"])[batch["learn"]] for figure in (k3, forward)]
        summed += torch.stack([values.sum().double() for values in drawn])
    dist.all_reduce(summed)
    return Divergence(*(summed / tokens).tolist())
