"""Bytes to text, by a rule that gives the same answer everywhere.

A byte order mark decides; else strict UTF-8. What is neither is GB18030, Windows-1252 or damaged UTF-8, told apart by
what the text would look like (`_guess`): detectors that weigh many more encodings take ordinary Latin text for rare
ones. Text in any other encoding comes out as UTF-8 full of U+FFFD, counted, for a rule to reject.
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
REPLACEMENT = "\ufffd"
# The commonest hanzi of modern and of classical texts, simplified and traditional.
COMMON_HANZI = (
    "的一是不了在人有我他这這为為之大来來以个個中上们們到说說国國和地也子时時道出而要于就下得可你年生自会會后後能对對其所去行过過家十天如然作方成者多日三小无無同当當起与與好学學心前见見"
    "曰风風山水月春花云雲江夜雨秋酒老君白清长長高归歸新最名公市美外手比本南北东東西明"
)
ASCII_BYTES = bytes(range(128))


class Decoded(NamedTuple):
    """A text, the encoding that it was in, and how many broken sequences became U+FFFD."""

    text: str
    encoding: str
    replaced: int


def decode(data: bytes) -> Decoded:
    """The text of some bytes, `\\r\\n` made `\\n`. Raises ValueError for binary data: a NUL."""
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding)
    if (nul := data.find(b"\0")) >= 0:
        raise ValueError(f"binary: NUL at byte {nul}")
    try:
        return Decoded(_newlines(data.decode()), "utf-8", 0)
    except UnicodeDecodeError:
        return _guess(data)


def _guess(data: bytes) -> Decoded:
    """Damaged UTF-8 where as many characters are whole as broken. Else GB18030 where one character in 20 is among the
    commonest hanzi and at most one in 100 is broken. Else Windows-1252 where at most one byte in 3 is not ASCII.
    """
    utf8 = _decoded(data, "utf-8")
    high_bytes = len(data.translate(None, ASCII_BYTES))
    if _beyond_ascii(utf8.text) >= 2 * utf8.replaced:
        return utf8
    gb18030 = _decoded(data, "gb18030")
    characters = _beyond_ascii(gb18030.text)
    common = sum(map(gb18030.text.count, COMMON_HANZI))
    if 20 * common >= characters and 100 * gb18030.replaced <= characters:
        return gb18030
    latin = _decoded(data, "windows-1252")
    if 3 * high_bytes <= len(data) and not latin.replaced:
        return latin
    return utf8


def _decoded(data: bytes, encoding: str) -> Decoded:
    text = data.decode(encoding, "replace")
    replaced = text.count(REPLACEMENT)
    if replaced:  # some may have been written so
        replaced -= data.decode(encoding, "ignore").count(REPLACEMENT)
    return Decoded(_newlines(text), encoding, replaced)


def _beyond_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n")
