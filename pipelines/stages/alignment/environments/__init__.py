"""The list of all environments. A new one is a file of this folder and a line here."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.environments.python import PythonEnvironment
from pipelines.stages.alignment.environments.tools import Tools
from pipelines.stages.alignment.environments.verifiers import VerifiersEnvironment

if TYPE_CHECKING:
    AnyEnvironment: TypeAlias = Environment
else:
    AnyEnvironment, __all__ = listed(Environment, globals())
