"""A web page's bytes to its text: the encoding found as browsers do, the text extracted by Resiliparse.

Resiliparse (Bevendorff et al., ECIR 2018) extracts as DCLM and Dolma do: rules on elements and their names, no model.
Its time grows with the square of the nesting, so a page nested deeper than browsers build it is refused. It takes
`10<sup>6</sup>` for 106, so exponents get their `^` before.
"""

from __future__ import annotations

import re
from html import escape, unescape
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
_LOOKS = (  # markup that a number may stand in
    r"(?:</?(?:[biuq]|em|strong|span|font|small|big|var|nobr|tt|code|kbd|samp|abbr|bdi|mark|cite|dfn|wbr)\b[^<>]{0,200}>"
    r"|<!--[^<>]{0,200}-->)"
)
_SUPER = r"<span\b[^<>]{0,200}?(?:vertical-align:\s*super|class=[\"']?super(?:script)?\b)[^<>]{0,200}>"
_RAISED = re.compile(  # up to a link, which is a mark, or its end
    rf"(?:<sup\b[^<>]{{0,200}}>((?:[^<]|{_LOOKS}|<br\b[^<>]{{0,200}}>){{1,60}}?)(?:</sup\s*>|(?=<a\b))"
    rf"|{_SUPER}([^<]{{1,60}})</span\s*>)",
    re.IGNORECASE,
)
_LOOK = re.compile(_LOOKS, re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_BLANK = re.compile(r"(?:\s|&(?:nbsp|thinsp|ensp|emsp|#160|#8201|#xa0|#x2009);)+\Z", re.IGNORECASE)
_ENTITY = re.compile(r"&\w+;")
_MATH = re.compile(r"<math\b[^<>]{0,500}>(?:(?!</?math\b).){0,20000}</math\s*>", re.IGNORECASE | re.DOTALL)
_TEN = re.compile(r"(?<!\d)10\s?\Z")
MAX_NESTED = 3  # exponents of exponents
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
    """The page with `^` before its exponents, innermost first, and with formulas of MathML as text. What links, such as
    the marks of notes, stays as it is.
    """
    html = _MATH.sub(_formula, html) if "<math" in html.lower() else html
    for _ in range(MAX_NESTED):
        html, changed = _raised_once(html)
        if not changed:
            break
    return html


def _raised_once(html: str) -> tuple[str, bool]:
    parts: list[str] = []
    done = 0
    for raised in _RAISED.finditer(html):
        start, end = raised.span()
        before = unescape(_LOOK.sub("", html[max(done, start - _BASE_LENGTH) : start])).rpartition(">")[2]
        text = unescape(_TAG.sub("", raised[1] or raised[2]))
        after = unescape(_TAG.sub("", html[end : end + _BASE_LENGTH]))
        is_before_link = html.startswith("<a", end) or html.startswith("<A", end)
        exponent = text.rstrip(" ,;\u2013-") if is_before_link else text
        if is_before_link and not (_TEN.search(before) and exponent):
            continue
        written = power(before, exponent, text[len(exponent) :] or after)
        if written is not None:
            near = max(done, start - _BASE_LENGTH)
            shown = escape(written + text[len(exponent) :])
            parts += html[done:near], _BLANK.sub("", html[near:start]), shown, "<sup>" * is_before_link
            done = end
    return "".join(parts) + html[done:], bool(parts)


def _formula(math: re.Match[str]) -> str:
    """The text of a formula, or the formula where it is no XML."""
    from lxml import etree

    from pipelines.stages.corpus.readers.jats.mathml import text_of

    markup = _ENTITY.sub(lambda entity: escape(unescape(entity[0])), math[0])
    try:
        return escape(text_of(etree.fromstring(markup, etree.XMLParser(recover=True, resolve_entities=False))))
    except (etree.XMLSyntaxError, ValueError, TypeError, AttributeError):  # no XML that could be mended
        return math[0]


def _declared(data: bytes) -> str:
    found = _DECLARED.search(data, 0, _PRESCAN_BYTES)
    return found[1].decode("ascii", "ignore") if found else ""


def _known(label: str, data: bytes) -> str | None:
    """The encoding of a label of the WHATWG's list. UTF-16 without a NUL is UTF-8, as browsers take it in `meta`."""
    encoding = map_encoding_to_html5(label, fallback_utf8=False) if label else None
    return "utf-8" if encoding in ("utf-16-le", "utf-16-be") and b"\0" not in data else encoding


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n")
