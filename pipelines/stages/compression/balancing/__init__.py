"""The list of all ways to balance a layer's inputs before it is rounded. A new one is a file of this folder and a
line."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.compression.balancing.awq import Awq
from pipelines.stages.compression.balancing.balancing import Balancing
from pipelines.stages.compression.balancing.smooth_quant import SmoothQuant

if TYPE_CHECKING:
    AnyBalancing: TypeAlias = Balancing
else:
    AnyBalancing, __all__ = listed(Balancing, globals())
