"""The list of all losses on preferences. A new one is a file of this folder and a line here."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.alignment.offline.losses.dpo import Dpo
from pipelines.stages.alignment.offline.losses.ipo import Ipo
from pipelines.stages.alignment.offline.losses.kto import Kto
from pipelines.stages.alignment.offline.losses.loss import PreferenceLoss
from pipelines.stages.alignment.offline.losses.orpo import Orpo
from pipelines.stages.alignment.offline.losses.simpo import Simpo

if TYPE_CHECKING:
    AnyPreferenceLoss: TypeAlias = PreferenceLoss
else:
    AnyPreferenceLoss, __all__ = listed(PreferenceLoss, globals())
