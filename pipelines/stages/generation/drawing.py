"""What an engine on CPUs does otherwise than vLLM's.

vLLM draws a random number for each token of the vocabulary and each answer that has a seed of its own: a fifth of the
time of 16 answers by a model of 135 M parameters. And it packs matrices for oneDNN, whose products of so few rows take
half the time of PyTorch's, when it loads them: new weights would not reach what was packed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PRIMITIVES = 32  # numbers of rows for which oneDNN remembers its code; vLLM's own


def draw(probabilities: Tensor, generators: dict[int, torch.Generator]) -> Tensor:
    """A token (rows,) of each row of probabilities (rows, vocabulary), by the inverse of its distribution function: the
    first token up to which there is more than a uniform share of the whole. Each takes one number of its row's
    generator; rows that have none share torch's own. A token without probability is never drawn."""
    shares = torch.rand(len(probabilities), 1, dtype=torch.float64)
    for row, generator in generators.items():
        shares[row] = torch.rand((), dtype=torch.float64, generator=generator)
    below = probabilities.double().cumsum(1)
    whole = below[:, -1:]
    # Rounding may take a share of nearly all to the whole, which no token is above.
    wanted = torch.minimum(shares * whole, whole.nextafter(torch.zeros_like(whole)))
    return torch.searchsorted(below, wanted, right=True).squeeze(1)


def draw_by_one_number(llm: Any) -> None:
    """Have an engine of this process draw by `draw`."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    sampler = llm.llm_engine.model_executor.driver_worker.worker.model_runner.sampler.topk_topp_sampler

    def sample(
        logits: Tensor, generators: dict[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens, and the log-probabilities of what top-k and top-p leave, where these are to be told."""
        left = apply_top_k_top_p(logits, k, p)
        told = left.log_softmax(dim=-1, dtype=torch.float32) if sampler.logprobs_mode == "processed_logprobs" else None
        return draw(left.softmax(dim=-1, dtype=torch.float32), generators), told

    sampler.forward = sample


def pack(model: torch.nn.Module) -> None:
    """Have oneDNN compute the products of a model's matrices in fp32, as they are now: each is packed, and so held
    twice, when it is first needed."""
    for layer in model.modules():
        if hasattr(layer, "cpu_linear") and layer.weight.dim() == 2 and layer.weight.dtype == torch.float32:
            layer.cpu_linear = _Packed()


class _Packed:
    """x weight^T + bias of one layer."""

    def __init__(self) -> None:
        self._packed: Any = None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        from vllm import _custom_ops as ops

        if self._packed is None:
            self._packed = ops.create_onednn_mm(weight.t(), PRIMITIVES)
        found: Tensor = ops.onednn_mm(self._packed, x, bias)
        return found
