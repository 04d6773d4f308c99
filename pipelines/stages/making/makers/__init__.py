"""The list of all makers. A new one is a file of this folder and a line here; the order does not matter."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.making.makers.disease_table import DiseaseTable
from pipelines.stages.making.makers.knowledge_graph import KnowledgeGraph
from pipelines.stages.making.makers.maker import Maker
from pipelines.stages.making.makers.self_instruct import SelfInstruct

if TYPE_CHECKING:
    AnyMaker: TypeAlias = Maker
else:
    AnyMaker, __all__ = listed(Maker, globals())
