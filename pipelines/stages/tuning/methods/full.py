"""All weights are trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.stages.tuning.methods.method import Method, Stored

if TYPE_CHECKING:
    from torch import Tensor


class Full(Method, frozen=True, tag="full"):
    """All weights."""

    adapts: ClassVar[bool] = False
    cuts: ClassVar[bool] = True

    def learns_rows(self, tied: bool) -> bool:
        return True

    def apply(self, model: Any, seed: int, values: bool = True) -> Any:
        return model

    def write(self, model: Any, stored: Stored, weights: dict[str, Tensor], into: Path, base: str, seed: int) -> None:
        model.save_pretrained(into, state_dict=weights)

    @property
    def told(self) -> str:
        return "all weights"
