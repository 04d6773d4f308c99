"""Articles of PMC and Europe PMC: JATS/NLM XML alone, many in one root, or in packages; and PMC's plain texts.

A package (`.tar.gz`) is read as a stream. In it only texts that PMC made are taken, not authors' supplements.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, ClassVar

from cluster.core.storage.location import PACKED
from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.jats.meta import PMCID, url_of
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading.encodings import decode, noted
from pipelines.stages.corpus.reading.files import MAX_DOCUMENT_BYTES, open_stream

_MARK = re.compile(r"^==== (Front|Body|Refs)[ \t]*\r?$", re.MULTILINE)


class JatsSource(Source, frozen=True, tag="jats"):
    """Articles of PMC and Europe PMC: JATS/NLM XML, alone, many in one file, or in `.tar.gz` packages; plain texts.

    Translations, reviewers' reports and replies within an article are documents of their own.
    """

    endings: ClassVar[tuple[str, ...]] = (".xml", ".nxml", ".tar.gz", ".tgz", ".txt")
    tables: bool = False
    """Keep tables, a row a line, cells apart by ` | `, those that span several rows or columns in each; captions and
    notes of tables stay in any case.
    """
    formulas: bool = True
    """Keep formulas: TeX as it is, else MathML as text such as `(a + b)/c_i`."""
    references: bool = False
    """Keep the list of references."""
    acknowledgements: bool = False
    """Keep acknowledgements, funding, conflicts of interest and other notes about the authors. In the body a section is
    such only where it is short and last.
    """

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """The articles of a file. Raises one of `UNREADABLE` where its compression is damaged."""
        name = file.name.lower()
        for ending in PACKED:
            name = name.removesuffix(ending)
        with open_stream(file) as stream:
            if name.endswith((".tar", ".tgz")):
                yield from self._read_package(file.name, stream)
            elif name.endswith(".txt"):
                yield self._read_text(file.name, "", stream.read(MAX_DOCUMENT_BYTES + 1))
            else:
                yield from _marked(self._read_xml(file.name, "", stream))

    def _read_package(self, name: str, stream: IO[bytes]) -> Iterator[Document | Broken]:
        last = ""
        try:
            with tarfile.open(fileobj=stream, mode="r|") as package:
                while (member := package.next()) is not None:
                    package.members = []  # type: ignore[attr-defined]  # or a package of a million files would be kept
                    last = member.name
                    content = package.extractfile(member) if member.isfile() else None
                    if content is None:
                        continue
                    where = f"member {member.name}"
                    if member.name.lower().endswith((".xml", ".nxml")):
                        yield from self._read_xml(f"{name}#{member.name}", where, content)
                    elif member.name.lower().endswith(".txt"):
                        data = content.read(MAX_DOCUMENT_BYTES + 1)
                        if PMCID.search(member.name) or data.lstrip().startswith(b"==== Front"):
                            yield self._read_text(f"{name}#{member.name}", where, data)
        except tarfile.TarError as error:
            yield Broken(name, f"after member {last}" if last else "", f"truncated: {error}", ends_file=True)

    def _read_xml(self, id: str, where: str, stream: IO[bytes]) -> Iterator[Document | Broken]:
        from pipelines.stages.corpus.readers.jats.articles import articles
        from pipelines.stages.corpus.readers.jats.text import Parts

        parts = Parts(self.tables, self.formulas, self.references, self.acknowledgements)
        return articles(parts, id, where, stream)

    def _read_text(self, id: str, where: str, data: bytes) -> Document | Broken:
        """A plain text. Of PMC's with marks the body stays (and the references): its front runs names, addresses, title
        and abstract into one another.
        """
        if len(data) > MAX_DOCUMENT_BYTES:
            return Broken(id, where, f"too_large: more than {MAX_DOCUMENT_BYTES} bytes")
        try:
            text, encoding, replaced = decode(data)
        except ValueError as error:
            return Broken(id, where, f"malformed: {error}")
        marks = list(_MARK.finditer(text))
        if marks:
            ends = [mark.start() for mark in marks[1:]] + [len(text)]
            wanted = ("Body", "Refs") if self.references else ("Body",)
            parts = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True) if mark[1] in wanted]
            text = "\n\n".join(parts)
        text = text.strip()
        if not text:
            return Broken(id, where, "empty" if not data.strip() else "no_text: no body")
        named = PMCID.search(id)
        known = {"pmcid": named[1]} if named else {}
        notes = noted(encoding, replaced)
        return Document(id, text, url=url_of(known), metadata=known | notes)


def _marked(found: Iterator[Document | Broken]) -> Iterator[Document | Broken]:
    """Where the last article of a file is not finished, the file breaks off there."""
    last: Document | Broken | None = None
    for record in found:
        if last is not None:
            yield last
        last = record
    if isinstance(last, Broken) and last.reason.startswith("truncated"):
        last = replace(last, ends_file=True)
    if last is not None:
        yield last
