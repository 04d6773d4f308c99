"""A web page's bytes to its text: the encoding found as browsers do, the text extracted by Resiliparse.

Resiliparse (Bevendorff et al., ECIR 2018) extracts as DCLM and Dolma do: rules on elements and their names, no model.
Its time grows with the square of the nesting, so a page nested deeper than browsers build it is refused. It takes
`10<sup>6</sup>` for 106, so exponents get their `^` before.
"""

from __future__ import annotations

import re
from html import unescape
from typing import NamedTuple

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from pipelines.stages.corpus.readers.superscripts import power
from pipelines.stages.corpus.reading.encodings import BOMS, REPLACEMENT, Decoded, decode

MAX_DEPTH = 512  # Chromium's and WebKit's limit
_DEEPEST = ">".join("*" * (MAX_DEPTH + 1))  # selects an element that has this many around it
_PRESCAN_BYTES = 1024  # how far into a page browsers look for its charset
_DECLARED = re.compile(rb"(?:<meta\b[^>]*?\bcharset|<\?xml\b[^>]*?\bencoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_LOOKS = r"</?(?:[biu]|em|strong|span|font|small|var|nobr)\b[^<>]{0,200}>"  # markup that a number may stand in
_RAISED = re.compile(rf"<[sS][uU][pP]\b[^<>]{{0,200}}>((?:[^<]|{_LOOKS}){{1,60}}?)</[sS][uU][pP]\s*>")
_LOOK = re.compile(_LOOKS)
_BASE_LENGTH = 80  # characters of the page in which the number before a `sup` stands


class Page(NamedTuple):
    """What a page says: its text, its title and the language of its `html` element; empty where it does not say."""

    text: str
    title: str
    language: str


def decode_page(data: bytes, charset: str = "") -> Decoded:
    """The text of a page, `\\r\\n` made `\\n`, by the first of: byte order mark; valid UTF-8 beyond ASCII; the HTTP
    header's charset; the page's own (`meta`, XML declaration); uchardet.

    UTF-8 stands before the header, unlike in browsers, for servers are wrong more often than other text happens to be
    valid UTF-8. A page that says UTF-8 and is not is decoded as plain text is. Raises ValueError for binary data.
    """
    if data.startswith(tuple(mark for mark, _ in BOMS)):
        return decode(data)
    if not data.isascii():
        try:
            return Decoded(_newlines(data.decode()), "utf-8", 0)
        except UnicodeDecodeError:
            pass  # not UTF-8: what follows says what it is
    encoding = _known(charset, data) or _known(_declared(data), data) or detect_encoding(data)
    if encoding == "utf-8" or encoding is None:
        return decode(data)
    text = data.decode(encoding, "replace")
    name = "utf-8" if data.isascii() and text == data.decode() else encoding.replace("cp125", "windows-125")
    return Decoded(_newlines(text), name, text.count(REPLACEMENT))


def extract(html: str, main_content: bool) -> Page:
    """The text of a page, without navigation and the like where `main_content` asks for it; images say nothing.

    Raises ValueError for a page whose elements are nested deeper than `MAX_DEPTH`.
    """
    tree = HTMLTree.parse(_with_powers(html))
    document = tree.document
    if document is None:
        raise ValueError("not_html: the parser finds no document")
    if document.query_selector(_DEEPEST) is not None:
        raise ValueError(f"nesting: elements are nested more than {MAX_DEPTH} deep")
    root = document.query_selector("html")
    language = "" if root is None else root.getattr("lang") or root.getattr("xml:lang") or ""
    text = extract_plain_text(tree, main_content=main_content, alt_texts=False)
    return Page(text.strip(), " ".join((tree.title or "").split()), language.strip())


def _with_powers(html: str) -> str:
    """The page with `^` before its exponents; what links, such as the marks of notes, stays as it is."""
    parts: list[str] = []
    done = 0
    for raised in _RAISED.finditer(html):
        start = raised.start()
        before = unescape(_LOOK.sub("", html[max(done, start - _BASE_LENGTH) : start])).rpartition(">")[2]
        after = unescape(html[raised.end() : raised.end() + 8].partition("<")[0])
        written = power(before, unescape(_LOOK.sub("", raised[1])), after)
        if written is not None:
            parts += html[done:start].rstrip(), f"<sup>{written}</sup>"
            done = raised.end()
    return "".join(parts) + html[done:]


def _declared(data: bytes) -> str:
    found = _DECLARED.search(data, 0, _PRESCAN_BYTES)
    return found[1].decode("ascii", "ignore") if found else ""


def _known(label: str, data: bytes) -> str | None:
    """The encoding of a label of the WHATWG's list. UTF-16 without a NUL is UTF-8, as browsers take it in `meta`."""
    encoding = map_encoding_to_html5(label, fallback_utf8=False) if label else None
    return "utf-8" if encoding in ("utf-16-le", "utf-16-be") and b"\0" not in data else encoding


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n")
