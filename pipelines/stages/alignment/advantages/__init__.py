"""The list of all advantages. A new one is a file of this folder and a line here."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.alignment.advantages.advantage import Advantage
from pipelines.stages.alignment.advantages.distillation import Distillation
from pipelines.stages.alignment.advantages.gae import Gae
from pipelines.stages.alignment.advantages.group import Group
from pipelines.stages.alignment.advantages.leave_one_out import LeaveOneOut
from pipelines.stages.alignment.advantages.normalized_batch import NormalizedBatch

if TYPE_CHECKING:
    AnyAdvantage: TypeAlias = Advantage
else:
    AnyAdvantage, __all__ = listed(Advantage, globals())
