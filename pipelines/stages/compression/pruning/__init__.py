"""The list of all ways to prune. A new one is a file of this folder and a line here."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.compression.pruning.magnitude import Magnitude
from pipelines.stages.compression.pruning.neurons import Neurons
from pipelines.stages.compression.pruning.pruning import Pruning
from pipelines.stages.compression.pruning.wanda import Wanda

if TYPE_CHECKING:
    AnyPruning: TypeAlias = Pruning
else:
    AnyPruning, __all__ = listed(Pruning, globals())
