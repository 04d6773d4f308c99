"""Every weight to the integer that is nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.stages.compression.rounding.rounding import Rounded, Rounding

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs
    from torch import Tensor

    from pipelines.stages.compression.statistics import Statistics


class Nearest(Rounding, frozen=True, tag="nearest"):
    """Rounding to nearest. It needs no texts; where there are some, inputs that are large count more for the scale."""

    def round(self, weight: Tensor, grid: QuantizationArgs, statistics: Statistics | None) -> Rounded:
        from pipelines.stages.compression.grid import best_scale, on_grid

        scale, zero_point = best_scale(weight, grid, None if statistics is None else statistics.gram.diagonal())
        return Rounded(on_grid(weight, scale, zero_point, grid), scale, zero_point)
