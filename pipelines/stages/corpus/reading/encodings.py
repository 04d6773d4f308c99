"""Bytes to text, by a rule that gives the same answer everywhere.

What the source declares decides, but for a byte order mark; else the escapes of ISO-2022 and HZ, else strict UTF-8.
What is neither is GB18030 or Windows-1252 where the text looks like it (`_guess`, `western`) and chardet, which weighs
the letters of many languages, comes to the same text: single-byte encodings are all alike, and Polish read as
Windows-1252 is other letters that nobody misses. Text in any other encoding comes out as UTF-8 full of U+FFFD, counted,
for a rule to reject or the source to declare.
"""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from typing import IO, Any, NamedTuple

from pipelines.stages.corpus.reading.western import looks_western

BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
REPLACEMENT = "\ufffd"
NARROWED_BYTES = 1 << 14
# The commonest hanzi of modern and of classical texts, simplified and traditional.
COMMON_HANZI = (
    "的一是不了在人有我他这這为為之大来來以个個中上们們到说說国國和地也子时時道出而要于就下得可你年生自会會后後能对對其所去行过過家十天如然作方成者多日三小无無同当當起与與好学學心前见見"
    "曰风風山水月春花云雲江夜雨秋酒老君白清长長高归歸新最名公市美外手比本南北东東西明"
)
TELLING_BYTES = 1 << 12
LATIN_ENCODINGS = ("windows-1250", "windows-1254", "windows-1257", "iso-8859-2")
_COOKIE = re.compile(rb"(?:[^\n]*\n)?[ \t\f]*#[^\n]*?coding[:=][ \t]*([-\w.]+)")
_SEVEN_BIT = (
    (re.compile(rb"\x1b\$\)C"), "iso2022_kr"),
    (re.compile(rb"\x1b(?:\$[@B]|\$\(D|\([IJ])"), "iso2022_jp_ext"),
    (re.compile(rb"~\{[!-w][!-~]"), "hz"),
)
_WORD = re.compile(r"[^\W\d_]+")
_ASCII = re.compile("[a-zA-Z]")
UNMARKED_BYTES = 16  # shorter data with NULs may be anything
_LETTER = re.compile(r"[^\W\d_a-zA-Z\u00aa\u00b5\u00ba]")  # beyond ASCII; the others are marks
ASCII_BYTES = bytes(range(128))


class Decoded(NamedTuple):
    """A text, the encoding that it was in, and how many broken sequences became U+FFFD."""

    text: str
    encoding: str
    replaced: int


def decode(data: bytes, declared: str = "") -> Decoded:
    """The text of some bytes, `\\r\\n` made `\\n`. Raises ValueError for binary data: a NUL, if nothing is declared."""
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding)
    if declared:
        return _decoded(data, codecs.lookup(declared).name)
    if (nul := data.find(b"\0")) >= 0:
        if found := _unmarked_utf16(data):
            return found
        raise ValueError(f"binary: NUL at byte {nul}")
    if found := _seven_bit(data):
        return found
    try:
        return Decoded(_newlines(data.decode()), "utf-8", 0)
    except UnicodeDecodeError:
        return _cesu8(data) or _cookie(data) or _guess(data)


def _seven_bit(data: bytes) -> Decoded | None:
    """The encodings of mail and Usenet, which are ASCII to the eye of a decoder: ISO-2022 (Japanese and Korean) by its
    escape sequences, HZ (RFC 1843) by its braces and hanzi that are common.
    """
    for pattern, encoding in _SEVEN_BIT:
        if not pattern.search(data):
            continue
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "hz" or 20 * sum(map(text.count, COMMON_HANZI)) >= _beyond_ascii(text):
            return Decoded(_newlines(text), encoding, 0)
    return None


def hint(data: bytes, found: Decoded) -> str:
    """What a text may be in that came out as U+FFFD; empty for damaged UTF-8, and where nothing is known."""
    is_lost = found.encoding == "utf-8" and _beyond_ascii(found.text) < 2 * found.replaced
    what = likely(data) if is_lost else ""
    return "" if what == "windows-1252" else what  # that was looked for, and is not sure


def likely(data: bytes) -> str:
    """What chardet takes bytes for that are no UTF-8: good enough for a hint, and for no more. Empty if it is lost."""
    import chardet

    return (chardet.detect(_telling(data))["encoding"] or "").lower()


def _guess(data: bytes) -> Decoded:
    """Damaged UTF-8 where as many characters are whole as broken. Else GB18030 where one character in 20 is among the
    commonest hanzi and at most one in 100 is broken. Else Windows-1252 where at most one byte in 3 is not ASCII, and
    none stands where no language has it.
    """
    utf8 = _decoded(data, "utf-8")
    high_bytes = len(data.translate(None, ASCII_BYTES))
    if _beyond_ascii(utf8.text) >= 2 * utf8.replaced:
        return utf8
    gb18030 = _decoded(data, "gb18030")
    characters = _beyond_ascii(gb18030.text)
    common = sum(map(gb18030.text.count, COMMON_HANZI))
    if 20 * common >= characters and 100 * gb18030.replaced <= characters:
        whole = gb18030.text.replace(REPLACEMENT, "").encode("gb18030")  # a broken byte would mislead the detector
        if likely(whole).startswith("gb"):
            return gb18030
    latin = _decoded(data, "windows-1252")
    if 3 * high_bytes > len(data) or latin.replaced or not looks_western(latin.text):
        return utf8
    is_sure = not _LETTER.search(latin.text) or _is_the_same_in_all(data) or _agrees(data, "windows-1252")
    return latin if is_sure else utf8


def _is_the_same_in_all(data: bytes) -> bool:
    """Whether a text is the same in all Latin encodings, and is Latin: each word has letters of ASCII too."""
    text = data.decode("windows-1252", "replace")
    is_latin = all(_ASCII.search(word) or not _LETTER.search(word) for word in _WORD.findall(text))
    return is_latin and all(data.decode(other, "replace") == text for other in LATIN_ENCODINGS)


def _agrees(data: bytes, encoding: str) -> bool:
    """Whether chardet comes to the same text, whatever it calls its encoding."""
    import chardet

    sample = _telling(data)
    found = chardet.detect(sample)["encoding"]
    try:
        return found is not None and sample.decode(found, "replace") == sample.decode(encoding, "replace")
    except LookupError:
        return False


def _telling(data: bytes) -> bytes:
    """The first lines that are not ASCII: all that tells, and few enough for a detector written in Python."""
    found, size = [], 0
    for line in data.split(b"\n"):
        if size >= TELLING_BYTES:
            break
        if not line.isascii():
            found.append(line[:TELLING_BYTES])
            size += len(found[-1])
    return b"\n".join(found)


def _cesu8(data: bytes) -> Decoded | None:
    """CESU-8, as Java and Oracle write it: characters beyond the first plane as two halves of three bytes each."""
    try:
        text = data.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    return Decoded(_newlines(text), "cesu-8", 0)


def _cookie(data: bytes) -> Decoded | None:
    """Source code that says its encoding in one of its first two lines, as PEP 263 has it, and is all in it."""
    if not (declared := _COOKIE.match(data)):
        return None
    try:
        name = codecs.lookup(declared[1].decode()).name
        return Decoded(_newlines(data.decode(name)), name, 0)
    except (LookupError, UnicodeDecodeError):
        return None


def _unmarked_utf16(data: bytes) -> Decoded | None:
    """UTF-16 without a mark, where two characters in five are ASCII and none is a control, private or no character."""
    if len(data) < UNMARKED_BYTES or len(data) % 2:
        return None
    for encoding, place in (("utf-16-le", 1), ("utf-16-be", 0)):
        if 5 * data[place::2].count(0) < len(data):  # 2/5 of half of the bytes
            continue
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not any(c not in "\t\n\r\f" and unicodedata.category(c) in ("Cc", "Cn", "Co") for c in set(text)):
            return Decoded(_newlines(text), encoding, 0)
    return None


def wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32, by its mark or by the zeros beside its first two characters, which are ASCII; else empty."""
    for mark, encoding in BOMS[1:]:
        if head.startswith(mark):
            return encoding
    for width, encoding, place in ((4, "utf-32-le", 0), (4, "utf-32-be", 3), (2, "utf-16-le", 0), (2, "utf-16-be", 1)):
        first = head[: 2 * width]
        zeros = [not any(first[i::width]) for i in range(width)]
        ones = first[place::width]
        if len(ones) == 2 and all(ones) and ones.isascii() and zeros == [i != place for i in range(width)]:
            return encoding
    return ""


class Narrowed(io.RawIOBase):
    """A stream of UTF-16 or UTF-32 as UTF-8, without its mark; what is broken in it is U+FFFD."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = b""
        self._is_first = True

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        chunk = b" "
        while not self._ready and chunk:
            chunk = self._stream.read(NARROWED_BYTES)
            text = self._decoder.decode(chunk, final=not chunk)
            self._ready = (text.removeprefix("\ufeff") if self._is_first else text).encode()
            self._is_first = self._is_first and not text
        count = min(len(self._ready), len(target))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


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


def noted(encoding: str, replaced: int) -> dict[str, Any]:
    """What a document's metadata say of its encoding, where that is worth a word."""
    notes: dict[str, Any] = {} if encoding == "utf-8" else {"encoding": encoding}
    return notes | ({"replacement_characters": replaced} if replaced else {})
