"""What every reader is: a struct that says which files, and a method that makes documents of one of them.

`docs/first-change.md` adds one: a file beside this, and a line in `pipelines/stages/corpus/readers/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import msgspec

from cluster.core.specs.naming import names_files
from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.reading.files import find


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="reader"):
    """Base of all sources: files, however they are read. In YAML `reader` tells them apart."""

    endings: ClassVar[tuple[str, ...]] = ()
    """Endings of the files that count where `suffixes` does not say; compressed ones count, too."""

    path: Annotated[str, names_files(suffixes="file_endings")] = ""
    """File, folder (searched recursively) or glob; local, or any fsspec URL such as `s3://bucket/prefix`."""
    name: str = ""
    """What the documents' `source` says; empty takes the last part of `path`."""
    suffixes: tuple[str, ...] = ()
    """Endings of the files to read, also compressed (`.gz`, `.zst`, `.bz2`, `.xz`); empty: the reader's own."""
    license: str = ""
    """Licence of documents that do not bring one; empty says `unknown`."""
    assign: Literal["by_hash", "train", "heldout"] = "by_hash"
    """Split that this source's documents go to, where it is published; `by_hash` draws for each. A near-duplicate
    goes where the first of its kind goes all the same."""

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """The documents of a file, and `Broken` for every record that cannot be read.

        It streams, and never holds a file that may be large. What it raises ends the file there, and the corpus says
        where and why: one of `UNREADABLE`, as a rule. What takes long to import is imported here, not above.
        """
        raise NotImplementedError

    def list_files(self) -> list[SourceFile]:
        """All files, sorted by name, large ones in ranges. Raises InputError where there are none."""
        return [part for file in find(self.path, self.file_endings()) for part in self.ranges(file)]

    def ranges(self, file: SourceFile) -> list[SourceFile]:
        """A file, or the parts of it that several tasks can read at once, where reading can begin in its middle."""
        return [file]

    def file_endings(self) -> tuple[str, ...]:
        """Endings of the files that count at `path`."""
        return self.suffixes or self.endings
