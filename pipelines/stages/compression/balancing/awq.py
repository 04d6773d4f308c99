"""AWQ (Lin et al. 2024, arXiv:2306.00978): inputs that are large on real texts get larger weights, which lose less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pipelines.stages.compression.balancing.balancing import Balancing

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs
    from torch import Tensor, nn

    from pipelines.stages.compression.statistics import Statistics


class Awq(Balancing, frozen=True, tag="awq"):
    """Scales that are powers of the mean input, of which the one is taken that loses least."""

    steps: Annotated[int, Meta(ge=1)] = 20
    """Powers that are tried between 0 and 1 (section 3.2: a grid search over [0, 1]; the authors' code: 20)."""

    def scales(self, layers: list[nn.Linear], statistics: Statistics, grid: QuantizationArgs) -> Tensor:
        """Equation (5): s = magnitude ** power, with the power whose loss, equation (4), is least."""
        import torch

        best, least = torch.ones_like(statistics.magnitude), torch.inf
        for step in range(self.steps):
            scales = statistics.magnitude.clamp(min=1e-4) ** (step / self.steps)
            scales = scales / (scales.max() * scales.min()).sqrt()
            lost = sum(loss(layer.weight, scales, statistics.gram, grid) for layer in layers)
            if lost < least:
                best, least = scales, lost
        return best


def loss(weight: Tensor, scales: Tensor, gram: Tensor, grid: QuantizationArgs) -> float:
    """Equation (4): the mean square of Q(W diag(s)) (diag(s)^-1 x) - W x, summed over outputs, by the mean of x x^T."""
    from pipelines.stages.compression.grid import on_grid, widest_scale

    widened = weight * scales
    error = on_grid(widened, *widest_scale(widened, grid), grid) / scales - weight
    return float(((error @ gram) * error).sum())
