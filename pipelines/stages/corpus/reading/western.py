"""What tells text in Windows-1252 from what only looks like it: text in another single-byte encoding, read as if.

The encodings of Central Europe, the Baltic and Turkey share most letters with it, those of DOS and the Macintosh have
other letters at the same places; so a Polish name in a comment is other letters that nobody misses. Here are the
combinations that languages of Western Europe do not have: `èl` at the beginning of a word is Croatian `čl`, `cafŽ` is
a Macintosh's `café`. Few letters prove little, so what is merely rare counts in short texts only; in longer ones the
statistics of a detector are better. Icelandic is lost with Turkish, whose letters stand in the places of its own.
"""

from __future__ import annotations

import re

SHORT_LETTERS = 40  # beyond ASCII: below, what is rare counts

_LETTER = r"[^\W\d_]"
_LOWER, _UPPER = "a-zß-öø-ÿ", "A-ZÀ-ÖØ-Þ"
_VOWEL = "aeiouáéíóú"

# What no text has: marks within or before a word, capitals within or behind one, four such letters in a row.
STRANGE = re.compile(
    rf"(?<={_LETTER})[¡-©«-´¶-¹»-¿ˆ˜‚„†‡‰‹›•™“”](?={_LETTER})|(?<={_LETTER})[‚„†‡ˆ˜](?!\w)|[¤ˆ˜]"
    rf"|[¹²³¼½¾¨´¸¥¦ªº¯](?={_LETTER})|(?<=[^\W_])[¡¿]|[£¶](?=[{_LOWER}]{{3}})|©(?=[{_LOWER}])|±(?=[à-ÿ])"
    rf"|µ(?=[{_LOWER}]{{4}})|(?<=[{_LOWER}])[ŠŽŒŸÀ-ÖØ-Þ](?![{_UPPER}])|(?<=[{_UPPER}])[ŠŽŒŸ](?=[{_LOWER}])"
    rf"|Ÿ(?=[{_LOWER}])|(?<![^\W\d_])[{_UPPER}][À-ÖØ-Þ](?=[{_LOWER}])|(?<!\w)[ŠŽŒŸÆ](?!\w)|[^\W\d_a-zA-Z]{{4}}"
)
# What is rare: Icelandic (or Turkish), and letters where French, Spanish, Portuguese, Italian, German and the languages
# of the North do not have them.
_RARE = re.compile(
    rf"[ðþýÐÞÝ]|[ñÑ](?![{_VOWEL}{_VOWEL.upper()}yY])|è(?=[{_VOWEL}y])|(?<!{_LETTER})è(?=[a-qt-uwxy])|È(?=[{_VOWEL}])"
    rf"|iæ(?!{_LETTER})|(?<!{_LETTER})æ(?=[aeiou])|æ(?=st[aeiou])|õ(?!e)|ø(?=[áíéìýù])|ã(?=[bcdfghjklmpqrtvwxz])"
    rf"|î(?=[bcdfghjkpqrvwxz])|û(?=[bdfghjkpqvwxz]|rm)|â(?=[jkvwxyz])|(?<=[bcdfghjklmnpqrstvwxz])ë|(?<![aeouAEOU])ï"
    rf"|[ìù](?=[a-z])|iê(?!nc)|œ(?![uidetns])|(?<!{_LETTER})á(?=v)|(?<=[a-z])[–—](?=[a-z](?!{_LETTER}))"
    rf"|(?<!\w)[^\W\d_a-zA-Z]{{2,}}(?!\w)"
)
_BEYOND_ASCII = re.compile(r"[^\W\d_a-zA-Z]")


def looks_western(text: str) -> bool:
    """Whether a text that was decoded as Windows-1252 has nothing in it that speaks against it."""
    if STRANGE.search(text):
        return False
    letters = sum(1 for _ in _BEYOND_ASCII.finditer(text))
    return letters >= SHORT_LETTERS or _RARE.search(text) is None
