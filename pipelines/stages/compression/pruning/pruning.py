"""What every pruning is: a struct of its fields, and what it takes out of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cluster.core.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipelines.stages.compression.statistics import Block, Statistics

Share = Annotated[float, Meta(gt=0, lt=1)]


class Pruning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all. In YAML `type` tells them apart. What takes long to import is imported within."""

    calibrated: ClassVar[bool] = False
    """Whether it needs what a layer was given for texts (`Statistics`)."""

    def check(self, config: Any) -> None:
        """Raise SpecError where a model, a transformers configuration, cannot be pruned so."""

    def prune(self, block: Block, config: Any) -> None:
        """Take out of a transformer block what there is to take."""
        raise NotImplementedError

    def configure(self, config: Any) -> None:
        """Change a configuration's sizes to those of the pruned model."""


class Unstructured(Pruning, frozen=True):
    """Single weights of the linear layers become zero; sizes stay."""

    by_row: ClassVar[bool] = False
    """Whether weights are compared within their row, and not within the whole layer."""

    fraction: Share = 0.5
    """Share of each layer's weights that become zero."""
    pattern: tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=2)]] | None = None
    """`[2, 4]`: of every four neighbours in a row two stay, as GPUs' sparse kernels want it (Mishra et al. 2021,
    arXiv:2104.08378); `fraction` is not used then."""

    def check(self, config: Any) -> None:
        if self.pattern is not None and self.pattern[0] >= self.pattern[1]:
            stay, of = self.pattern
            raise SpecError(f"pruned.method.pattern: {stay} of {of} is all", "Let fewer stay, such as [2, 4].")

    def importance(self, layer: nn.Linear, statistics: Statistics | None) -> Tensor:
        """How much each weight counts (outputs, inputs)."""
        raise NotImplementedError

    def prune(self, block: Block, config: Any) -> None:
        import torch

        for name, layer in block.layers.items():
            importance = self.importance(layer, block.statistics.get(name))
            with torch.no_grad():
                layer.weight.mul_(self._kept(importance))

    def _kept(self, importance: Tensor) -> Tensor:
        """True for the weights that stay."""
        import torch

        if self.pattern is not None:
            stay, of = self.pattern
            groups = importance.unflatten(-1, (-1, of))
        elif self.by_row:
            groups, stay = importance, importance.shape[-1] - round(self.fraction * importance.shape[-1])
        else:
            groups, stay = importance.flatten(), importance.numel() - round(self.fraction * importance.numel())
        kept = torch.zeros_like(groups, dtype=torch.bool)
        return kept.scatter_(-1, groups.topk(stay, -1).indices, True).view(importance.shape)
