"""Records of JSON that carry a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers import json_objects
from pipelines.stages.corpus.readers.json_objects import objects
from pipelines.stages.corpus.readers.records import from_record
from pipelines.stages.corpus.readers.source import Source


class JsonLinesSource(Source, frozen=True, tag="jsonl"):
    """JSON: an object a line, or an array of objects, or objects written over several lines; whatever the ending."""

    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".json", ".ndjson")

    text_field: str = "text"
    """Field that holds the text, or a list of strings, joined by newlines; dots reach into objects (`content.body`)."""
    id_field: str = ""
    """Field that identifies a document; empty numbers the records of a file."""
    encoding: str = ""
    """Encoding of all files without a byte order mark, such as `cp1251`; empty finds out what can be told surely."""

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """A document an object; `Broken` for a line that is no JSON and for an object without a text."""
        for number, record in objects(file, self.encoding):
            if isinstance(record, Broken):
                yield record
            else:
                yield from_record(file, number, record, self.text_field, self.id_field)

    def ranges(self, file: SourceFile) -> list[SourceFile]:
        """Ranges of a large file that has an object a line."""
        return [file] if self.encoding else json_objects.ranges(file)
