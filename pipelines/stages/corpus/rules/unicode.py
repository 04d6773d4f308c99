"""Repair of characters and of white space.

Wrong decoding is found and undone by ftfy (Speer 2019), with everything else that ftfy does switched off: curled
quotes and full-width punctuation are right in the texts that use them. Its detector runs once over the whole text, so
clean text costs one search; ASCII costs less still.
"""

from __future__ import annotations

import re
import unicodedata

import ftfy
from ftfy.badness import is_bad

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.cleaners import NormalizeWhitespace, RepairUnicode

REPLACEMENT = "\ufffd"

_MOJIBAKE_ONLY = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)

# Of the ASCII controls tab and the line ends stay. Joiners (U+200C, U+200D) and marks of direction carry meaning in
# Persian, Indic scripts and emoji, and stay.
_ASCII_CONTROLS = "\x00-\x08\x0e-\x1f\x7f"
_CONTROLS = re.compile(f"[{_ASCII_CONTROLS}\x80-\x84\x86-\x9f\xad\u200b\u2060\ufeff\ufff9-\ufffc\ufffe\uffff]")
_SOME_ASCII_CONTROL = re.compile(f"[{_ASCII_CONTROLS}]")
_EXPONENT = re.compile("(?<=[0-9])[⁺⁻]?[⁰¹²³⁴-⁹]+")
_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_RUN_OF_BLANKS = re.compile(r"(?<=\S)(?:[ \t]{2,}|\t)")


def well_formed(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which no encoding can hold (JSON's escapes can make them)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def repair(document: Document, config: RepairUnicode) -> str:
    """Repair the characters. Reason: `replacement_characters`."""
    text = document.text
    if text.isascii():
        if config.control_characters and _SOME_ASCII_CONTROL.search(text):
            document.text = _CONTROLS.sub("", text)
        return ""
    text = well_formed(text)
    if config.mojibake and is_bad(text):
        text = well_formed(ftfy.fix_text(text, _MOJIBAKE_ONLY))
    if config.control_characters:
        text = _CONTROLS.sub("", text)
    if config.normalization:
        if config.normalization == "NFKC":
            text = _EXPONENT.sub(r"^\g<0>", text)  # or 10⁶ would become 106
        text = unicodedata.normalize(config.normalization, text)
    document.text = text
    lost = text.count(REPLACEMENT)
    return "replacement_characters" if lost > config.max_replacement_fraction * len(text) else ""


def whitespace(document: Document, config: NormalizeWhitespace) -> str:
    """Normalize white space: `\\n` ends lines, none ends in blanks, none blank begins or ends the text."""
    text = _LINE_ENDS.sub("\n", document.text)
    if config.unicode_spaces and not text.isascii():
        text = _SPACES.sub(" ", text)
    text = "\n".join([line.rstrip() for line in text.split("\n")]).strip("\n")
    if config.collapse_spaces:
        text = _RUN_OF_BLANKS.sub(" ", text)
    most = config.max_blank_lines + 1
    if "\n" * (most + 1) in text:
        text = re.sub(f"\n{{{most + 1},}}", "\n" * most, text)
    document.text = text
    return ""
