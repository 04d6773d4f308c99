"""SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): large inputs, which cost the others of their token its bits, are
made smaller, and their weights larger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pipelines.stages.compression.balancing.balancing import Balancing

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs
    from torch import Tensor, nn

    from pipelines.stages.compression.statistics import Statistics


class SmoothQuant(Balancing, frozen=True, tag="smooth_quant"):
    """Scales that share the difficulty between activations and weights; for schemes that round both."""

    strength: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Equation (4)'s alpha: how much of it goes from the activations to the weights (section 5.1: 0.5)."""

    def scales(self, layers: list[nn.Linear], statistics: Statistics, grid: QuantizationArgs) -> Tensor:
        """Equation (4): s = max|x| ** alpha / max|w| ** (1 - alpha), for each input."""
        import torch

        widest = torch.stack([layer.weight.abs().amax(0) for layer in layers]).amax(0).clamp(min=1e-5)
        return statistics.largest.clamp(min=1e-5) ** self.strength / widest ** (1 - self.strength)
