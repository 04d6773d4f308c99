"""What an XML file says before its articles, and an article parsed by it.

The parser sees no DTD: nothing is fetched and no entity is expanded. Named entities are replaced before, by HTML's
names, which hold most of ISO 8879's. Bytes that are not what the file declares are decoded as those of a plain text.
"""

from __future__ import annotations

import html
import re
from html.entities import html5
from typing import Any, NamedTuple

from lxml import etree

from pipelines.stages.corpus.readers.jats.xml import Piece, move
from pipelines.stages.corpus.reading.encodings import decode, noted

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
_PARSER, _HUGE_PARSER = (
    etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        remove_comments=True,
        remove_pis=True,
        huge_tree=is_huge,
    )
    for is_huge in (False, True)
)
# From here on libxml2 would refuse a picture in an attribute or a long text. It takes them all where its limits are
# lifted; those of the reader hold: MAX_DOCUMENT_BYTES, no entity, and Python's depth of calls.
HUGE_BYTES = 10_000_000
# What is called Latin-1 is read as Windows-1252, as in browsers: it has quotes where Latin-1 has control characters.
_LATIN = frozenset(("iso-8859-1", "iso8859-1", "iso_8859-1", "latin-1", "latin1", "l1"))
_NOT_UNICODE = ("iso-8859-", "iso8859-", "windows-125", "cp125", "latin", "gb", "big5", "shift", "sjis", "euc-", "koi8")
_LARGER = {  # what is declared, and what browsers take it for, as programs do that write it (encoding.spec.whatwg.org)
    **dict.fromkeys(_LATIN, "windows-1252"),
    **dict.fromkeys(("gb2312", "gb_2312-80", "gbk", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
    "big5": "big5hkscs",
}
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


class Stray(NamedTuple):
    """What stands between articles and is no XML: where it begins, and its first characters."""

    line: int
    column: int
    text: str


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

    def parse(self, piece: Piece) -> tuple[Any, dict[str, Any]]:
        """The article's element and what had to be done to read it: `unknown_entities`, and what `encodings.decode`
        found where the bytes are not what the file declares. Raises Malformed.
        """
        data, notes = self._decode(piece)
        data, unknown = self._resolve(_joined(data))
        if unknown:
            notes["unknown_entities"] = unknown
        head = b"<x %b>" % b" ".join(b"xmlns:%b=%b" % prefix for prefix in self._prefixes.items())
        try:
            parser = _HUGE_PARSER if len(data) >= HUGE_BYTES else _PARSER
            return etree.fromstring(head + data + (b"</x>" if piece.is_closed else b""), parser)[0], notes
        except etree.XMLSyntaxError as error:
            line, column = error.position
            first_line = line == 1
            message = re.sub(r",? line \d+, column \d+.*$", "", error.msg or "no XML")
            message = re.sub(
                r"^Excessive depth in document: (\d+).*", r"elements are nested more than \1 deep", message
            )
            message = re.sub(r"\bline (\d+)", lambda found: f"line {int(found[1]) + piece.at[0] - 1}", message)
            raise Malformed(
                line + piece.at[0] - 1, max(1, column - len(head) + piece.at[1] - 1) if first_line else column, message
            ) from error

    def _decode(self, piece: Piece) -> tuple[bytes, dict[str, Any]]:
        """An article's bytes as UTF-8. What is valid UTF-8 beyond ASCII is that, whatever older set is declared."""
        encoding = _LARGER.get(self.encoding, self.encoding)
        if (not encoding or self.encoding.startswith(_NOT_UNICODE)) and _is_utf8(piece.data):
            return piece.data, {}
        try:
            if encoding:
                return piece.data.decode(encoding).encode(), {}
            text, guessed, replaced = decode(piece.data)
        except UnicodeDecodeError as error:
            if encoding != self.encoding:  # bytes that Windows leaves empty
                return piece.data.decode(self.encoding).encode(), {}
            line, column = move(piece.at, piece.data[: error.start])
            raise Malformed(line, column, f"not {self.encoding}, which the file declares: {error.reason}") from error
        except LookupError as error:
            raise Malformed(*piece.at, f"the file declares an unknown encoding {self.encoding!r}") from error
        except ValueError as error:
            raise Malformed(*piece.at, str(error)) from error
        return text.encode(), noted(guessed, replaced)

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


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


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
