"""The list of all losses of policy gradients. A new one is a file of this folder and a line here."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.alignment.losses.cispo import Cispo
from pipelines.stages.alignment.losses.clipped import Clipped
from pipelines.stages.alignment.losses.gspo import Gspo
from pipelines.stages.alignment.losses.loss import PolicyLoss

if TYPE_CHECKING:
    AnyPolicyLoss: TypeAlias = PolicyLoss
else:
    AnyPolicyLoss, __all__ = listed(PolicyLoss, globals())
