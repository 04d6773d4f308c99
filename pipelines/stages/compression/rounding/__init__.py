"""The list of all ways to round weights. A new one is a file of this folder and a line here."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.compression.rounding.gptq import Gptq
from pipelines.stages.compression.rounding.nearest import Nearest
from pipelines.stages.compression.rounding.rounding import Rounding

if TYPE_CHECKING:
    AnyRounding: TypeAlias = Rounding
else:
    AnyRounding, __all__ = listed(Rounding, globals())
