"""A file is a document: plain text or source code, in the encoding that its source declares, or that can be told."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.sources import Source, TextSource
from pipelines.stages.corpus.reading.encodings import decode, hint
from pipelines.stages.corpus.reading.files import MAX_DOCUMENT_BYTES, open_stream
from pipelines.stages.corpus.tally import LIKELY_ENCODING


def read(source: Source, file: SourceFile) -> Iterator[Document | Broken]:
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
        found = decode(data, source.encoding if isinstance(source, TextSource) else "")
    except ValueError as error:
        yield Broken(file.name, "", str(error))
        return
    text, encoding, replaced = found
    metadata: dict[str, str | int] = {}
    if encoding != "utf-8":
        metadata["encoding"] = encoding
    if replaced:
        metadata["replacement_characters"] = replaced
        if likely := hint(data, found):
            metadata[LIKELY_ENCODING] = likely
    yield Document(file.name, text, metadata=metadata, **file.origin)


def _too_large(file: SourceFile) -> Broken:
    return Broken(file.name, "", f"file_size: more than {MAX_DOCUMENT_BYTES} bytes; split it, a document a file")
