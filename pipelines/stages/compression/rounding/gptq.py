"""GPTQ (Frantar et al. 2023, arXiv:2210.17323): columns are rounded one after the other, and those that are left make
up for the error, as far as the layer's inputs let them.

Column j of W is rounded, and the others move by the optimal update of equation (2), of which the paper's Algorithm 1
takes all factors at once, from the Cholesky factor of the inverse Hessian, whose rows are those of equation (3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import InputError
from pipelines.stages.compression.rounding.rounding import Rounded, Rounding

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs
    from torch import Tensor

    from pipelines.stages.compression.statistics import Statistics

BLOCK = 128  # columns whose updates of the rest are made at once (section 3, step 2)


class Gptq(Rounding, frozen=True, tag="gptq"):
    """Rounding that makes up for the error of each column in those that are still to be rounded."""

    calibrated: ClassVar[bool] = True

    damping: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    """Share of the Hessian's mean diagonal that is added to the diagonal (section 3, step 3: 1 %)."""
    order: Literal["importance", "position"] = "importance"
    """Which columns are rounded first: those with the largest inputs (`act-order` of the authors' code), or the first
    ones. Either way a scale belongs to neighbouring columns, so that every engine reads the result."""

    def round(self, weight: Tensor, grid: QuantizationArgs, statistics: Statistics | None) -> Rounded:
        """Raises InputError for inputs that no texts of the calibration moved."""
        import torch

        from pipelines.stages.compression.grid import best_scale, on_grid

        assert statistics is not None
        hessian = statistics.gram.clone()
        diagonal = hessian.diagonal()
        if not diagonal.any():
            raise InputError("a layer's inputs are all zero on the texts of the calibration", "Give other texts.")
        diagonal[diagonal == 0] = diagonal.mean()  # inputs that are always zero: their weights round for themselves
        diagonal += self.damping * diagonal.mean()
        scale, zero_point = best_scale(weight, grid, statistics.gram.diagonal())
        width = weight.shape[1] // scale.shape[1]
        order = torch.arange(weight.shape[1])
        if self.order == "importance":
            order = torch.argsort(statistics.gram.diagonal(), descending=True, stable=True)
        groups = (order // width).tolist()
        left = weight[:, order].clone()
        rounded = torch.empty_like(left)
        factor = inverse_factor(hessian[order][:, order])
        for begin in range(0, left.shape[1], BLOCK):
            end = min(begin + BLOCK, left.shape[1])
            errors = torch.empty_like(left[:, begin:end])
            for column in range(begin, end):
                group = groups[column]
                own = (scale[:, group, None], zero_point[:, group, None])
                rounded[:, column] = on_grid(left[:, column, None], *own, grid)[:, 0]
                error = (left[:, column] - rounded[:, column]) / factor[column, column]
                left[:, column:end] -= error[:, None] * factor[None, column, column:end]
                errors[:, column - begin] = error
            left[:, end:] -= errors @ factor[begin:end, end:]
        result = torch.empty_like(rounded)
        result[:, order] = rounded
        return Rounded(result, scale, zero_point)


def inverse_factor(hessian: Tensor) -> Tensor:
    """The upper triangular U with U^T U = H^-1 (Algorithm 1)."""
    import torch

    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.as_tensor(torch.linalg.cholesky(inverse, upper=True))
