"""The list of all methods of fine-tuning. A new one is a file of this folder and a line here."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.tuning.methods.freeze import Freeze
from pipelines.stages.tuning.methods.full import Full
from pipelines.stages.tuning.methods.lora import Lora
from pipelines.stages.tuning.methods.method import Method
from pipelines.stages.tuning.methods.p_tuning_v2 import PTuningV2
from pipelines.stages.tuning.methods.prompt_tuning import PromptTuning
from pipelines.stages.tuning.methods.qlora import QLora

if TYPE_CHECKING:
    AnyMethod: TypeAlias = Method
else:
    AnyMethod, __all__ = listed(Method, globals())
