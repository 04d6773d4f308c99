"""Log-probabilities of tokens under a model, in little more memory than the logits of those that are asked for.

PyTorch's log-softmax keeps a second array of the logits' size, and its gradient takes a third. As in the cross entropy
of pretraining (objectives/cross_entropy.py), the logits become their own gradient here, in the backward pass, since
the factors of the tokens are known no sooner.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipelines.stages.alignment.shared_prompts import asked
from pipelines.stages.training.objectives.cross_entropy import CPU_BLOCK_BYTES, GPU_BLOCK_BYTES
from pipelines.stages.training.objectives.output_layer import OutputLayer


def token_logprobs(model: Any, tokens: Tensor, temperature: float, learn: Tensor | None = None) -> Tensor:
    """Log-probabilities (batch, length) of tokens[:, 1:] (batch, length + 1) at a temperature; where `learn` (batch,
    length) is given, of its tokens alone, and 0 elsewhere."""
    if learn is None:
        learn = torch.ones_like(tokens[:, 1:], dtype=torch.bool)
    return scattered(learned_logits(model, tokens, learn), tokens, temperature, learn)


def learned_logits(model: Any, tokens: Tensor, learn: Tensor) -> Tensor:
    """The logits (learned, vocabulary) of those of tokens[:, 1:] (batch, length + 1) to learn (batch, length)."""
    text = asked(model, tokens, learn)
    with OutputLayer.of(model).asked_at(text.told_from, text.inputs.size(1)):
        found: Tensor = model(text.inputs, use_cache=False, **text.others).logits
        return found


def scattered(logits: Tensor, tokens: Tensor, temperature: float, learn: Tensor) -> Tensor:
    """Log-probabilities (batch, length) of the tokens to learn out of their logits (learned, vocabulary), 0 elsewhere;
    the logits are overwritten, as `label_logprobs` says."""
    scaled = logits if temperature == 1.0 else logits.float() / temperature
    return spread(label_logprobs(scaled, tokens[:, 1:][learn]), learn)


def spread(figures: Tensor, learn: Tensor) -> Tensor:
    """Figures (learned,) of the tokens to learn, where they stand (batch, length); 0 elsewhere."""
    return figures.new_zeros(learn.shape).masked_scatter(learn, figures)


def label_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """log softmax(logits)[label] of each row (nats, (rows,) fp32; of float64, float64).

    logits: (rows, vocabulary); where they need a gradient they are overwritten by the backward pass, so use them for
    nothing else. labels: (rows,) int64.
    """
    found: Tensor = _LabelLogprobs.apply(logits, labels)
    return found


class _LabelLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        log_z = torch.cat([logits[here].to(dtype).logsumexp(1) for here in _blocks(logits)])
        ctx.logits, ctx.labels, ctx.log_z = logits, labels, log_z
        return logits.gather(1, labels.unsqueeze(1)).squeeze(1).to(dtype) - log_z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        gradient: Tensor = ctx.logits
        del ctx.logits  # it can be had once
        for here in _blocks(gradient):
            factors = outer[here].unsqueeze(1)
            block = (gradient[here].to(outer.dtype) - ctx.log_z[here].unsqueeze(1)).exp_().mul_(-factors)
            gradient[here] = block.scatter_add_(1, ctx.labels[here].unsqueeze(1), factors).to(gradient.dtype)
        return gradient, None


def _blocks(logits: Tensor) -> list[slice]:
    """The rows in blocks that a cache holds; at least one."""
    rows, vocabulary = logits.shape
    size = max(1, (GPU_BLOCK_BYTES if logits.is_cuda else CPU_BLOCK_BYTES) // (4 * vocabulary))
    return [slice(begin, begin + size) for begin in range(0, max(1, rows), size)]
