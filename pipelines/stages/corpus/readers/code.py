"""Source code in CodeParrot's layout: JSON lines of the GitHub dump."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers import json_objects
from pipelines.stages.corpus.readers.json_objects import objects
from pipelines.stages.corpus.readers.records import from_record
from pipelines.stages.corpus.readers.source import Source

CODE_FIELDS = ("repo_name", "path")


class CodeSource(Source, frozen=True, tag="code"):
    """Source code in CodeParrot's layout: JSON lines of `repo_name`, `path`, `content`, `license`."""

    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".json")

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """A document a file of a repository: `<file>#<repo_name>/<path>`."""
        for number, record in objects(file):
            if isinstance(record, Broken):
                yield record
                continue
            parts = [record.get(field) for field in CODE_FIELDS]
            found = from_record(file, number, record, "content")
            if isinstance(found, Document) and all(isinstance(part, str) and part for part in parts):
                found.id = f"{file.name}#{'/'.join(map(str, parts))}"
            yield found

    def ranges(self, file: SourceFile) -> list[SourceFile]:
        """Ranges of a large file that has an object a line."""
        return json_objects.ranges(file)
