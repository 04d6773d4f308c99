"""Cross entropy in one pass over the logits, whose place its gradient takes.

PyTorch's holds up to three arrays of their size, in float32, which for a small model with a large vocabulary is much of
a step's memory. Here each block of rows becomes its gradient while the cache holds it, as in Liger Kernel
(arXiv:2410.10989), and nothing of the logits' size is made besides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of a block in float32: on a CPU within a core's cache, on a GPU enough to keep it busy.
CPU_BLOCK_BYTES = 2**20
GPU_BLOCK_BYTES = 2**28


def cross_entropy(
    logits: Tensor, labels: Tensor, z_loss: float = 0.0, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The loss and its cross entropy alone, in nats, sums over all labels: two float32 scalars.

    The loss of a label y is (1 - s) (ln Z - x_y) + s (ln Z - mean x) + z (ln Z)^2, with Z the sum of exp x (label
    smoothing s: arXiv:1512.00567; z-loss: PaLM, arXiv:2204.02311, section 5). Only the loss has a gradient.

    logits: (rows, vocabulary); where they need a gradient they are overwritten, so use them for nothing else.
    labels: (rows,) int64; negative ones are none.
    """
    found: tuple[Tensor, Tensor] = _CrossEntropy.apply(logits, labels, z_loss, label_smoothing)
    return found


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, z_loss: float, label_smoothing: float
    ) -> tuple[Tensor, Tensor]:
        rows, vocabulary = logits.shape
        block_bytes = GPU_BLOCK_BYTES if logits.is_cuda else CPU_BLOCK_BYTES
        block_rows = max(1, block_bytes // (4 * vocabulary))
        losses, entropies = (torch.zeros(rows, device=logits.device) for _ in range(2))
        for begin in range(0, rows, block_rows):
            here = slice(begin, begin + block_rows)
            block, counts, label = logits[here], labels[here] >= 0, labels[here].clamp(min=0).unsqueeze(1)
            peak = block.amax(1, keepdim=True).float()
            scores = block.float() - peak  # exp cannot overflow
            truth = scores.gather(1, label).squeeze(1)
            mean = scores.mean(1) if label_smoothing else truth
            weights = scores.exp_()
            sums = weights.sum(1)
            log_sums = sums.log()
            log_z = log_sums + peak.squeeze(1)
            entropy = log_sums - truth
            loss = entropy + label_smoothing * (truth - mean) + z_loss * log_z.square()
            losses[here], entropies[here] = loss.where(counts, 0), entropy.where(counts, 0)
            if ctx.needs_input_grad[0]:
                weights *= ((1 + 2 * z_loss * log_z) / sums).where(counts, 0).unsqueeze(1)
                if label_smoothing:
                    weights -= (counts * (label_smoothing / vocabulary)).unsqueeze(1)
                pulled = weights.gather(1, label) - (counts * (1 - label_smoothing)).unsqueeze(1)
                block.copy_(weights.scatter_(1, label, pulled))
        ctx.gradient = logits
        entropy = entropies.sum()
        ctx.mark_non_differentiable(entropy)
        return losses.sum(), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        gradient: Tensor = ctx.gradient
        del ctx.gradient  # it can be had once
        return gradient.mul_(outer), None, None, None
