"""Wanda (Sun et al. 2024, arXiv:2306.11695): weights that are small, or whose inputs are, become zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipelines.stages.compression.pruning.pruning import Unstructured

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipelines.stages.compression.statistics import Statistics


class Wanda(Unstructured, frozen=True, tag="wanda"):
    """The weights of each row become zero whose product with the norm of their inputs is smallest."""

    calibrated: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def importance(self, layer: nn.Linear, statistics: Statistics | None) -> Tensor:
        """Equation (1): |w| times the norm of its input."""
        assert statistics is not None
        return layer.weight.detach().abs() * statistics.gram.diagonal().sqrt()
