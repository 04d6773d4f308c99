"""Raised numbers in plain text: `10<sup>6</sup>` is `10^6`, never `106`.

Of what is raised, an exponent gets a `^`: a number raised behind a digit, which would read as one number with it, and
behind a ten what reads as a formula (`(−1/slope)`, `x/10`). What no number can be taken for stays as it is: marks of
footnotes and citations that link to them, letters (`1st`, `0.05a`), charges and units (`Ca2+`, `cm-1`), squares of
letters (`m2`).
"""

from __future__ import annotations

import re

# Signs as they are typed; the last is one in a class of characters too.
_SIGN = "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u207b\u2212\u02d7\u02c9\xaf\ufe63\uff0d-"
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_NUMBER = re.compile(rf"[+{_SIGN}]?\d+(?:[.,]\d+)*")
_EXPONENT = re.compile(rf"(?:[+±~∼≈≤≥<>{_SIGN}]{{1,2}}|minus ?)?\.?\d")  # how one begins
_NEGATIVE = re.compile(  # as in 2^-ΔΔCt, 2^(−ΔΔCt) and 2^−(ΔΔCt)
    rf"(?:[{_SIGN}][(\[]?|[(\[][{_SIGN}])(?!(?:st|nd|rd|th)\b)[^\W\d_]"
)
_BARE = re.compile(  # what needs no parentheses
    rf"[+±{_SIGN}]?(?:\d+(?:[.,]\d+)*[+{_SIGN}]?|[^\W_]+)|\([^()]*\)|\[[^\[\]]*\]"
)
_TEN = re.compile(r"(?<!\d)10\Z")
_SYMBOL = re.compile(rf"[nmxyN]\Z|[nmxykN][+{_SIGN}]\d+\Z")  # what stands for an exponent of ten, not for a footnote
_FORMULA = re.compile(  # what is raised behind a ten and reads as one
    rf"\(.+\)\Z|[{_SIGN}]?[(\[].*[\w.][)\]]\Z(?<!\d\])|[^\W\d_]\w*(?:[/+×·∙*]\d|\()|[½⅓⅔¼¾⅛]"
)
_RAISED_SIGN = re.compile(rf"[{_SIGN}]\Z")
# Mass numbers of the isotopes that are met most: `10 <sup>14</sup>C dates` counts dates.
_ISOTOPES = {
    "H": "1 2 3", "He": "3 4", "Li": "6 7", "B": "10 11", "C": "11 12 13 14", "N": "13 14 15", "O": "15 16 17 18",
    "F": "18 19", "P": "31 32 33", "S": "32 33 34 35", "Cl": "35 36 37", "K": "39 40 41 42", "Ca": "40 42 43 44 45 48",
    "Cr": "51 52", "Fe": "54 55 56 57 58 59", "Co": "57 58 60", "Ni": "59 63", "Cu": "63 64 65 67", "Zn": "65 66 68",
    "Ga": "67 68", "Se": "75 82", "Rb": "82 85 87", "Sr": "85 86 87 88 89 90", "Y": "89 90", "Zr": "89 90",
    "Tc": "99", "In": "111", "I": "123 124 125 127 129 131", "Xe": "129 131 133", "Cs": "133 134 135 137", "Lu": "177",
    "Re": "186 187 188", "Tl": "201", "Pb": "204 206 207 208 210 212", "Po": "210", "Rn": "222", "Ra": "223 226 228",
    "Th": "228 230 232 234", "U": "233 234 235 236 238", "Pu": "238 239 240 241", "Am": "241",
}  # fmt: skip
_ELEMENT = re.compile(r"[A-Z][a-z]?(?![^\W\d_])")


def power(before: str, raised: str, after: str) -> str | None:
    """How a raised text is written where it is an exponent: `^6`, `^-3`, `^(6–8)`; else None.

    `before` and `after` are the text on its line. A blank at the end of `before` belongs to the power behind a ten, and
    is left out of what is returned: the caller takes it away. A blank at the end of what is returned keeps the
    exponent from the digit that follows.
    """
    exponent = "".join(raised.split())
    if re.search(r"\w\s+\w", raised):  # words stay apart
        exponent = " ".join(raised.split())
    exponent = exponent.replace("\xad", "-").strip(INVISIBLE)  # a soft hyphen that was typed for a minus
    before = before.rstrip(INVISIBLE)
    base = before.rstrip()
    if not base[-1:].isdecimal():
        return None
    is_ten = _TEN.search(base) is not None
    if base != before:
        if not (is_ten and _NUMBER.fullmatch(exponent)) or _is_isotope(exponent, after):
            return None
    elif not (
        _EXPONENT.match(exponent)
        or (is_ten and (_SYMBOL.match(exponent) or _FORMULA.match(exponent)))
        or (not _is_name(base) and _NEGATIVE.match(exponent))
    ):
        is_split = is_ten and not _is_name(base) and _RAISED_SIGN.match(exponent) and after[:1].isdecimal()
        return f"^{exponent}" if is_split else None  # a sign that was raised, and its number that was not
    return (f"^{exponent}" if _BARE.fullmatch(exponent) else f"^({exponent})") + " " * after[:1].isdecimal()


def _is_isotope(number: str, after: str) -> bool:
    element = _ELEMENT.match(after)
    return element is not None and number in _ISOTOPES.get(element[0], "").split()


def _is_name(base: str) -> bool:
    """Whether the digits at the end of a text belong to a name, as in `CD4` and `Vnn1`."""
    return re.search(r"[^\W\d_][-\u2010\u2011]?[\d.,]+\Z", base) is not None
