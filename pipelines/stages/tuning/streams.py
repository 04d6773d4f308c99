"""The bytes of a file of records, decompressed, and as UTF-8 whatever its encoding."""

from __future__ import annotations

import codecs
import io

from pipelines.stages.corpus.documents import SourceFile
from pipelines.stages.corpus.reading.encodings import Narrowed, decode, wide_encoding
from pipelines.stages.corpus.reading.files import BUFFER_BYTES, open_stream

SAMPLE_BYTES = 1 << 18
SEARCHED_BYTES = 64 << 20  # how far the first byte beyond ASCII is looked for
PARQUET = b"PAR1"


def opened(file: SourceFile, encoding: str = "") -> io.BufferedReader:
    """The file as a stream of UTF-8 without a mark (Parquet as it is); `encoding` as declared, or empty to find out."""
    stream = open_stream(file)
    try:
        head = stream.peek(1)
        if head.startswith(PARQUET):
            return stream
        known = wide_encoding(head) or encoding or _found(file)
        if known and codecs.lookup(known).name != "utf-8":
            return io.BufferedReader(Narrowed(stream, known), BUFFER_BYTES)
        if head.startswith(codecs.BOM_UTF8):
            stream.read(len(codecs.BOM_UTF8))
        return stream
    except BaseException:
        stream.close()
        raise


def _found(file: SourceFile) -> str:
    """The encoding of a file that has not declared any, by the first of it that is not ASCII; empty for UTF-8."""
    with open_stream(file) as stream:
        searched = 0
        while (chunk := stream.read(SAMPLE_BYTES)) and chunk.isascii() and searched < SEARCHED_BYTES:
            searched += len(chunk)
        if chunk.isascii():
            return ""
        chunk += stream.readline(SAMPLE_BYTES)  # whole characters
    found = decode(chunk)
    return "" if found.encoding in ("utf-8", "cesu-8") else found.encoding
