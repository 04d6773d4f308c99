"""The list of all rules. A new one is a file of this folder and a line here; the order does not matter."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.corpus.rules.blocklists import BadWords, UrlBlockList
from pipelines.stages.corpus.rules.boilerplate import (
    RemoveGutenbergBoilerplate,
    RemoveLicenseHeader,
    RemoveWebBoilerplate,
)
from pipelines.stages.corpus.rules.bounds import Length, NotEmpty, Signal
from pipelines.stages.corpus.rules.c4 import C4
from pipelines.stages.corpus.rules.chinese import (
    ChineseLines,
    ChineseQuality,
    ChineseRepetition,
    ConvertChinese,
    HalfWidth,
)
from pipelines.stages.corpus.rules.code import CodeParrot, CodeParrotHeuristics
from pipelines.stages.corpus.rules.decontamination import Decontaminate
from pipelines.stages.corpus.rules.fineweb import FineWeb
from pipelines.stages.corpus.rules.gopher import GopherQuality, GopherRepetition
from pipelines.stages.corpus.rules.language import Language
from pipelines.stages.corpus.rules.pii import RemovePersonalData
from pipelines.stages.corpus.rules.rule import Rule
from pipelines.stages.corpus.rules.unicode import NormalizeWhitespace, RepairUnicode
from pipelines.stages.corpus.rules.user import Python

if TYPE_CHECKING:
    AnyRule: TypeAlias = Rule
else:
    AnyRule, __all__ = listed(Rule, globals())
