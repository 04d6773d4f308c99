"""Repair of characters and of white space.

Wrong decoding is found and undone by ftfy (Speer 2019), with everything else that ftfy does switched off: curled
quotes and full-width punctuation are right in the texts that use them. Its detector runs once over the whole text, so
clean text costs one search; ASCII costs less still.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Literal

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Count, Fraction, Rule

REPLACEMENT = "\ufffd"

_MOJIBAKE_ONLY: dict[str, Any] = {
    "unescape_html": False,
    "remove_terminal_escapes": False,
    "fix_latin_ligatures": False,
    "fix_character_width": False,
    "uncurl_quotes": False,
    "fix_line_breaks": False,
    "fix_surrogates": False,
    "remove_control_chars": False,
    "normalization": None,
    "explain": False,
}

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


def _without_mojibake(text: str) -> str:
    import ftfy
    from ftfy.badness import is_bad

    return well_formed(ftfy.fix_text(text, ftfy.TextFixerConfig(**_MOJIBAKE_ONLY))) if is_bad(text) else text


class RepairUnicode(Rule, frozen=True):
    """Repair wrongly decoded characters (ftfy), normalize Unicode and remove characters that say nothing."""

    mojibake: bool = True
    """Undo decoding by the wrong encoding, such as `donâ€™t` for `don’t` (ftfy's `fix_encoding`)."""
    normalization: Literal["", "NFC", "NFKC"] = "NFC"
    """Unicode normalization; NFKC also folds full-width letters, ligatures and superscripts (`10⁶` to `10^6`);
    empty does none.
    """
    control_characters: bool = True
    """Remove control characters, byte-order marks, zero-width spaces and soft hyphens; tabs and line ends stay."""
    max_replacement_fraction: Fraction = 0.01
    """Reject a text with a larger share of U+FFFD, which stands where a character was lost (ours)."""

    def apply(self, document: Document) -> str:
        """Repair the characters. Reason: `replacement_characters`."""
        text = document.text
        if text.isascii():
            if self.control_characters and _SOME_ASCII_CONTROL.search(text):
                document.text = _CONTROLS.sub("", text)
            return ""
        text = well_formed(text)
        if self.mojibake:
            text = _without_mojibake(text)
        if self.control_characters:
            text = _CONTROLS.sub("", text)
        if self.normalization:
            if self.normalization == "NFKC":
                text = _EXPONENT.sub(r"^\g<0>", text)  # or 10⁶ would become 106
            text = unicodedata.normalize(self.normalization, text)
        document.text = text
        lost = text.count(REPLACEMENT)
        return "replacement_characters" if lost > self.max_replacement_fraction * len(text) else ""


class NormalizeWhitespace(Rule, frozen=True):
    """One form of line ends and blanks. Indentation stays as it is."""

    unicode_spaces: bool = True
    """Turn no-break, thin, ideographic and other Unicode spaces into plain ones."""
    collapse_spaces: bool = False
    """Turn a run of blanks inside a line into one space; it ruins tables and aligned comments."""
    max_blank_lines: Count = 2
    """Shorten longer runs of blank lines."""

    def apply(self, document: Document) -> str:
        """Normalize white space: `\\n` ends lines, none ends in blanks, none blank begins or ends the text."""
        text = _LINE_ENDS.sub("\n", document.text)
        if self.unicode_spaces and not text.isascii():
            text = _SPACES.sub(" ", text)
        text = "\n".join([line.rstrip() for line in text.split("\n")]).strip("\n")
        if self.collapse_spaces:
            text = _RUN_OF_BLANKS.sub(" ", text)
        most = self.max_blank_lines + 1
        if "\n" * (most + 1) in text:
            text = re.sub(f"\n{{{most + 1},}}", "\n" * most, text)
        document.text = text
        return ""
