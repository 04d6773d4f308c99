"""The smallest weights become zero (Han et al. 2015, arXiv:1506.02626)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.stages.compression.pruning.pruning import Unstructured

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipelines.stages.compression.statistics import Statistics


class Magnitude(Unstructured, frozen=True, tag="magnitude"):
    """The smallest weights of each layer become zero. It needs no texts."""

    def importance(self, layer: nn.Linear, statistics: Statistics | None) -> Tensor:
        return layer.weight.detach().abs()
