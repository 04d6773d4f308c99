"""The list of all readers. A new one is a file of this folder and a line here; the order does not matter."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.corpus.readers.code import CodeSource
from pipelines.stages.corpus.readers.huggingface import HuggingFaceSource
from pipelines.stages.corpus.readers.installed import InstalledPythonSource
from pipelines.stages.corpus.readers.jats.reader import JatsSource
from pipelines.stages.corpus.readers.json_lines import JsonLinesSource
from pipelines.stages.corpus.readers.parquet import ParquetSource
from pipelines.stages.corpus.readers.redpajama import RedPajamaSource
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.readers.text import TextSource
from pipelines.stages.corpus.readers.warc.reader import WarcSource
from pipelines.stages.corpus.readers.wikipedia.reader import WikipediaSource

if TYPE_CHECKING:
    AnySource: TypeAlias = Source
else:
    AnySource, __all__ = listed(Source, globals())
