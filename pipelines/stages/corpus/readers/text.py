"""A file is a document: plain text or source code, in the encoding that its source declares, or that can be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading.encodings import decode, hint, noted
from pipelines.stages.corpus.reading.files import MAX_DOCUMENT_BYTES, open_stream
from pipelines.stages.corpus.tally import LIKELY_ENCODING


class TextSource(Source, frozen=True, tag="text"):
    """A file is a document: plain text or source code. UTF-8, UTF-16, UTF-32, GB18030 and Windows-1252 are told apart
    where that is sure; text in other encodings becomes U+FFFD, counted, unless `encoding` says what it is."""

    endings: ClassVar[tuple[str, ...]] = (".txt", ".md", ".py")

    encoding: str = ""
    """Encoding of all files without a byte order mark, such as `cp1250`, `koi8-r` or `big5`; empty detects it."""

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """One document, or `Broken`."""
        return read_text(file, self.encoding)


def read_text(file: SourceFile, encoding: str = "") -> Iterator[Document | Broken]:
    """One document; `Broken` for a binary file and for one of more than `MAX_DOCUMENT_BYTES`, decompressed."""
    if file.size_bytes > MAX_DOCUMENT_BYTES:
        yield _too_large(file)
        return
    with open_stream(file) as stream:
        data = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        yield _too_large(file)
        return
    try:
        found = decode(data, encoding)
    except ValueError as error:
        yield Broken(file.name, "", str(error))
        return
    metadata = noted(found.encoding, found.replaced)
    if found.replaced and (likely := hint(data, found)):
        metadata[LIKELY_ENCODING] = likely
    yield Document(file.name, found.text, metadata=metadata, **file.origin)


def _too_large(file: SourceFile) -> Broken:
    return Broken(file.name, "", f"file_size: more than {MAX_DOCUMENT_BYTES} bytes; split it, a document a file")
