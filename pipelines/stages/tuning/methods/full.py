"""All weights are trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cluster.core.errors import SpecError
from pipelines.stages.tuning.methods.method import FIELD, Method, Stored

if TYPE_CHECKING:
    from torch import Tensor


class Full(Method, frozen=True, tag="full"):
    """All weights."""

    adapts: ClassVar[bool] = False
    cuts: ClassVar[bool] = True
    later_fields: ClassVar[tuple[str, ...]] = ("keep_zeros",)

    keep_zeros: bool = False
    """The zeros in the model's matrices stay zeros: what was pruned (`PruneSpec`) does not grow back."""

    def check(self, spec: Any) -> None:
        super().check(spec)
        if self.keep_zeros and spec.optimizer != "adamw":
            raise SpecError(f"{FIELD}.keep_zeros: {spec.optimizer} moves zeros, too", "Set sft.optimizer to adamw.")

    def learns_rows(self, tied: bool) -> bool:
        return True

    def apply(self, model: Any, seed: int, values: bool = True) -> Any:
        if self.keep_zeros and values:
            from pipelines.stages.training.sparsity import keep_zeros

            keep_zeros(model)
        return model

    def write(self, model: Any, stored: Stored, weights: dict[str, Tensor], into: Path, base: str, seed: int) -> None:
        model.save_pretrained(into, state_dict=weights)

    @property
    def told(self) -> str:
        return "all weights"
