"""Articles of an XML stream, one at a time: each is cut out by its tags and parsed alone.

So a bulk file takes the memory of one article, and an article that is broken spoils no other.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from pipelines.stages.corpus.reading.files import MAX_DOCUMENT_BYTES

CHUNK_BYTES = 1 << 20
GAP_BYTES = 1 << 16  # of what stands between articles; a prolog is far smaller
TAG_BYTES = 256  # a tag that a chunk's end cuts is no longer than this

_EDGE = re.compile(rb"<(?:[\w.-]+:)?article(?=[\s>])|</(?:[\w.-]+:)?article\s*>|<!--|<!\[CDATA\[|<\?")
_HIDING = {b"<!--": b"-->", b"<![CDATA[": b"]]>", b"<?": b"?>"}  # what stands within is text and no tag
# How an article of JATS begins, unlike an element of that name in HTML.
_ROOT = re.compile(
    rb"<[^<>]*\s(?:article-type|dtd-version)\s*="
    rb"|<[^<>]*>(?>\s+|<!--.*?-->|<\?.*?\?>)*+<(?:[\w.-]+:)?(?:processing-meta|front|front-stub|body|back)\b",
    re.DOTALL,
)
ROOT_BYTES = 1 << 12  # in which a root and what it begins with show
_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)


class Piece(NamedTuple):
    """An article as it stands in the file, or no `data` at the file's end."""

    gap: bytes  # what stands before it, GAP_BYTES of it at most
    gap_at: tuple[int, int]  # line and column of the gap's first byte, from 1
    data: bytes
    at: tuple[int, int]  # of the article's first byte
    is_closed: bool


def move(at: tuple[int, int], data: bytes | bytearray) -> tuple[int, int]:
    """Line and column behind `data` that begins at `at`."""
    lines = data.count(b"\n")
    return (at[0] + lines, len(data) - data.rfind(b"\n")) if lines else (at[0], at[1] + len(data))


def cut(stream: IO[bytes], limit_bytes: int = MAX_DOCUMENT_BYTES) -> Iterator[Piece]:
    """The articles of a file, and a last piece without data. An article longer than `limit_bytes` is not closed.

    Tags in comments, marked sections and processing instructions are none. An `article` within one is its part, unless
    it begins as those of JATS do: then the one before has broken off.
    """
    chunks = _utf8_chunks(stream)
    buffer, at = bytearray(), (1, 1)  # what is read and not given, and where it begins
    gap, gap_at = b"", (1, 1)
    depth, scanned, is_last = 0, 0, False
    while True:
        edge, scanned = _next_tag(buffer, scanned, is_last, limit_bytes if depth else 0)
        is_inside = depth > 0
        opens = edge is None or edge[0][1:2] != b"/"
        if edge is not None and opens and is_inside:
            if not is_last and len(buffer) < scanned + ROOT_BYTES:
                edge = None  # read on, to tell the next article from an element of that name
            elif not _ROOT.match(buffer, scanned, scanned + ROOT_BYTES):
                depth, scanned = depth + 1, edge.end()
                continue
        elif edge is not None and not opens and depth != 1:
            depth, scanned = max(0, depth - 1), edge.end()
            continue
        if edge is not None:
            taken = bytes(buffer[: edge.start() if opens else edge.end()])
            depth, scanned = (1, len(edge[0])) if opens else (0, 0)
        elif is_inside and len(buffer) > limit_bytes:
            taken, depth, scanned = bytes(buffer), 0, 0
        else:
            if not is_inside:  # keep no more of a gap than a tag that the chunk's end may have cut
                gap = (gap + buffer[:scanned])[:GAP_BYTES]
                at = move(at, buffer[:scanned])
                del buffer[:scanned]
                scanned = 0
            chunk = next(chunks, None)
            if chunk is not None:
                buffer += chunk
            elif is_last:
                break
            is_last = chunk is None
            continue
        end = move(at, taken)
        if is_inside:
            yield Piece(gap, gap_at, taken, at, not opens)
            gap, gap_at = b"", end
        else:
            gap = (gap + taken)[:GAP_BYTES]
        at = end
        del buffer[: len(taken)]
    rest = bytes(buffer)
    if depth:
        yield Piece(gap, gap_at, rest, at, False)
        gap, gap_at, at, rest = b"", move(at, rest), move(at, rest), b""
    yield Piece((gap + rest)[:GAP_BYTES], gap_at, b"", move(at, rest), True)


def _next_tag(buffer: bytearray, start: int, is_last: bool, stop: int) -> tuple[re.Match[bytes] | None, int]:
    """The next tag of an article and where it begins, or None and where to look on when more is read.

    What hides tags and is not closed hides none: neither what ends nowhere before `stop` (or within GAP_BYTES, where
    that is more), nor what begins anew before it ends.
    """
    while (edge := _EDGE.search(buffer, start)) is not None:
        closing = _HIDING.get(edge[0])
        if closing is None:
            return edge, edge.start()
        last = max(stop, edge.start() + GAP_BYTES)
        anew = buffer.find(edge[0], edge.end(), last)
        end = buffer.find(closing, edge.end(), anew if anew >= 0 else last)
        if end < 0 and anew < 0 and not is_last and len(buffer) < last:
            return None, edge.start()
        start = end + len(closing) if end >= 0 else edge.end()
    return None, max(start, len(buffer) - TAG_BYTES)


def _utf8_chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """The stream in chunks. UTF-16 and UTF-32, in which tags are other bytes, become UTF-8."""
    chunk = stream.read(CHUNK_BYTES)
    wide = next((encoding for mark, encoding in _WIDE if chunk.startswith(mark)), "")
    decoder = codecs.getincrementaldecoder(wide)() if wide else None
    while chunk:
        yield decoder.decode(chunk).encode() if decoder else chunk
        chunk = stream.read(CHUNK_BYTES)
