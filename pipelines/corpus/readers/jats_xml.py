"""Articles of an XML stream, one at a time: each is cut out by its tags and parsed alone.

So a bulk file takes the memory of one article, and an article that is broken spoils no other. The parser sees no DTD:
nothing is fetched and no entity is expanded. Named entities are replaced before, by HTML's names, which hold most of
ISO 8879's.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator
from html.entities import html5
from typing import IO, Any, NamedTuple

from lxml import etree

from pipelines.corpus.files import MAX_DOCUMENT_BYTES

CHUNK_BYTES = 1 << 20
GAP_BYTES = 1 << 16  # of what stands between articles; a prolog is far smaller
TAG_BYTES = 256  # a tag that a chunk's end cuts is no longer than this

_EDGE = re.compile(rb"<(?:[\w.-]+:)?article(?=[\s>])|</(?:[\w.-]+:)?article\s*>")
_ENCODING = re.compile(rb"<\?xml[^>]*?\sencoding\s*=\s*[\"']([\w.:-]+)")
_PREFIX = re.compile(rb"xmlns:([\w.-]+)\s*=\s*(\"[^\"<]*\"|'[^'<]*')")
# An entity of plain ASCII is honoured, a longer or nested one is unknown: text grows no more than twentyfold.
_DECLARED = re.compile(rb"<!ENTITY\s+([\w.-]+)\s+[\"']((?:[ !#-$(-;=?-~]|&#\w+;){0,64})[\"']\s*>")
_NAMED = re.compile(rb"<!\[CDATA\[(?:.*?\]\]>|.*)|&(?!(?:amp|lt|gt|quot|apos);)([A-Za-z_][\w.-]*);", re.DOTALL)
_DECLARATION = rb"<\?.*?\?>|<!--.*?-->|<!DOCTYPE\s[^\[>]*(?:\[.*?\]\s*)?>"
# What may stand around articles: declarations, and a wrapper's tags and elements of plain text.
_FURNITURE = re.compile(
    rb"(?:\xef\xbb\xbf|\s+|%b|<([\w:.-]++)[^<>]*+>[^<>]*+</\1\s*>|</?(?!article\b)[\w:.-]++[^<>]*+>)*" % _DECLARATION,
    re.DOTALL,
)
_WRAPPED = re.compile(rb"(?>%b|[^<])*+<[A-Za-z]" % _DECLARATION, re.DOTALL)
# A break before inline markup, and whether the author's blank stands before it.
_INLINE = rb"(?=<(?:italic|bold|su[bp]|sc|xref|ext-link|underline|(?:named|styled)-content|inline-formula|monospace)\b)"
_BREAK = re.compile(rb"(?<=\S)( ?)\r?\n[ \t]*" + _INLINE)
_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
_PARSER = etree.XMLParser(
    encoding="utf-8", resolve_entities=False, load_dtd=False, no_network=True, remove_comments=True, remove_pis=True
)
_PREFIXES = {
    b"xlink": b'"http://www.w3.org/1999/xlink"',
    b"mml": b'"http://www.w3.org/1998/Math/MathML"',
    b"ali": b'"http://www.niso.org/schemas/ali/1.0/"',
    b"xsi": b'"http://www.w3.org/2001/XMLSchema-instance"',
}


class Malformed(ValueError):
    """An article that cannot be parsed: where, from 1, and why."""

    def __init__(self, line: int, column: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.column, self.reason = line, column, reason


class Piece(NamedTuple):
    """An article as it stands in the file, or no `data` at the file's end."""

    gap: bytes  # what stands before it, GAP_BYTES of it at most
    gap_at: tuple[int, int]  # line and column of the gap's first byte, from 1
    data: bytes
    at: tuple[int, int]  # of the article's first byte
    is_closed: bool


class Stray(NamedTuple):
    """What stands between articles and is no XML: where it begins, and its first characters."""

    line: int
    column: int
    text: str


def move(at: tuple[int, int], data: bytes | bytearray) -> tuple[int, int]:
    """Line and column behind `data` that begins at `at`."""
    lines = data.count(b"\n")
    return (at[0] + lines, len(data) - data.rfind(b"\n")) if lines else (at[0], at[1] + len(data))


def cut(stream: IO[bytes], limit_bytes: int = MAX_DOCUMENT_BYTES) -> Iterator[Piece]:
    """The articles of a file, and a last piece without data. An article longer than `limit_bytes` is not closed."""
    chunks = _utf8_chunks(stream)
    buffer, at = bytearray(), (1, 1)  # what is read and not given, and where it begins
    gap, gap_at = b"", (1, 1)
    is_inside, scanned = False, 0
    while True:
        edge = _EDGE.search(buffer, scanned)
        if edge is not None:
            opens = edge[0][1:2] != b"/"
            if not is_inside and not opens:
                scanned = edge.end()
                continue
            taken = bytes(buffer[: edge.start() if opens else edge.end()])
            was_inside, is_inside = is_inside, opens
            scanned = len(edge[0]) if opens else 0
        elif is_inside and len(buffer) > limit_bytes:
            taken, was_inside, is_inside, scanned = bytes(buffer), True, False, 0
            opens = True
        else:
            scanned = max(scanned, len(buffer) - TAG_BYTES)
            if not is_inside:  # keep no more of a gap than a tag that the chunk's end may have cut
                gap = (gap + buffer[:scanned])[:GAP_BYTES]
                at = move(at, buffer[:scanned])
                del buffer[:scanned]
                scanned = 0
            chunk = next(chunks, None)
            if chunk is None:
                break
            buffer += chunk
            continue
        end = move(at, taken)
        if was_inside:
            yield Piece(gap, gap_at, taken, at, not opens)
            gap, gap_at = b"", end
        else:
            gap = (gap + taken)[:GAP_BYTES]
        at = end
        del buffer[: len(taken)]
    rest = bytes(buffer)
    if is_inside:
        yield Piece(gap, gap_at, rest, at, False)
        gap, gap_at, at, rest = b"", move(at, rest), move(at, rest), b""
    yield Piece((gap + rest)[:GAP_BYTES], gap_at, b"", move(at, rest), True)


def _utf8_chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """The stream in chunks. UTF-16 and UTF-32, in which tags are other bytes, become UTF-8."""
    chunk = stream.read(CHUNK_BYTES)
    wide = next((encoding for mark, encoding in _WIDE if chunk.startswith(mark)), "")
    decoder = codecs.getincrementaldecoder(wide)() if wide else None
    while chunk:
        yield decoder.decode(chunk).encode() if decoder else chunk
        chunk = stream.read(CHUNK_BYTES)


class Prolog:
    """What the gaps of a file have said so far: its encoding, its entities, its prefixes of namespaces."""

    def __init__(self) -> None:
        self.encoding = ""
        self.is_wrapped = False  # articles stand in an element that may hold several
        self._entities: dict[bytes, str] = {}
        self._prefixes = dict(_PREFIXES)

    def read(self, piece: Piece) -> Stray | None:
        """Learn from a piece's gap. Returns what in it belongs to no XML."""
        gap = piece.gap
        if not gap.strip():
            return None
        if declared := _ENCODING.search(gap):
            encoding = declared[1].decode().lower()
            self.encoding = "" if encoding.startswith(("utf-8", "utf8", "utf-16", "utf-32", "ucs-")) else encoding
        self.is_wrapped = self.is_wrapped or _WRAPPED.match(gap) is not None
        self._prefixes.update(_PREFIX.findall(gap))
        self._entities.update((name, html.unescape(text.decode())) for name, text in _DECLARED.findall(gap))
        furniture = _FURNITURE.match(gap)
        end = furniture.end() if furniture else 0
        if end == len(gap):
            return None
        return Stray(*move(piece.gap_at, gap[:end]), " ".join(gap[end : end + 60].decode("utf-8", "replace").split()))

    def parse(self, piece: Piece) -> tuple[Any, list[str]]:
        """The article's element, and the names of entities that nothing knows. Raises Malformed."""
        data, unknown = self._resolve(_joined(self._decode(piece)))
        head = b"<x %b>" % b" ".join(b"xmlns:%b=%b" % prefix for prefix in self._prefixes.items())
        try:
            return etree.fromstring(head + data + (b"</x>" if piece.is_closed else b""), _PARSER)[0], unknown
        except etree.XMLSyntaxError as error:
            line, column = error.position
            first_line = line == 1
            message = re.sub(r",? line \d+, column \d+.*$", "", error.msg or "no XML")
            message = re.sub(r"\bline (\d+)", lambda found: f"line {int(found[1]) + piece.at[0] - 1}", message)
            raise Malformed(
                line + piece.at[0] - 1, max(1, column - len(head) + piece.at[1] - 1) if first_line else column, message
            ) from error

    def _decode(self, piece: Piece) -> bytes:
        if not self.encoding:
            return piece.data
        try:
            return piece.data.decode(self.encoding).encode()
        except UnicodeDecodeError as error:
            line, column = move(piece.at, piece.data[: error.start])
            raise Malformed(line, column, f"not {self.encoding}, which the file declares: {error.reason}") from error
        except LookupError as error:
            raise Malformed(*piece.at, f"the file declares an unknown encoding {self.encoding!r}") from error

    def _resolve(self, data: bytes) -> tuple[bytes, list[str]]:
        unknown: set[str] = set()

        def replace(found: re.Match[bytes]) -> bytes:
            name = found[1]
            if name is None:  # marked as text: an ampersand there is one
                return found[0]
            text = self._entities.get(name) or html5.get(f"{name.decode()};")
            if text is None:
                unknown.add(name.decode())
                return b"&amp;" + found[0][1:]
            return "".join(f"&#{ord(character)};" for character in text).encode()

        return _NAMED.sub(replace, data), sorted(unknown)


def _joined(data: bytes) -> bytes:
    """Without breaks that were put into running text for looks, as in PLoS's XML of 2006 and some of F1000's.

    There a blank that is meant stands before the break (`in \\n\\t<italic>`), and `[\\n\\t<xref>` holds none. Where
    lines were filled, the break is the blank. An article is of the first kind if a third of its breaks have a blank.
    """
    if data.count(b" \n") + data.count(b" \r\n") < 8:  # most articles: the search is the slowest step
        return data
    found = _BREAK.findall(data)
    meant = sum(map(len, found))
    return _BREAK.sub(rb"\1", data) if 3 * meant > len(found) else data
