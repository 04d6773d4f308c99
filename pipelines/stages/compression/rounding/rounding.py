"""What every way to round weights is: a struct of its fields, and a matrix as it is on a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import msgspec

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs
    from torch import Tensor

    from pipelines.stages.compression.statistics import Statistics


@dataclass(frozen=True)
class Rounded:
    """A matrix (outputs, inputs) whose numbers are on a grid: `(integer - zero_point) * scale`, both (outputs,
    groups)."""

    weight: Tensor
    scale: Tensor
    zero_point: Tensor


class Rounding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all. In YAML `type` tells them apart. What takes long to import is imported within."""

    calibrated: ClassVar[bool] = False
    """Whether it needs what a layer was given for texts (`Statistics`)."""

    def round(self, weight: Tensor, grid: QuantizationArgs, statistics: Statistics | None) -> Rounded:
        """A matrix (outputs, inputs) rounded to integers of a compressed-tensors grid."""
        raise NotImplementedError
