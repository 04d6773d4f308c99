"""Raised numbers in plain text: `10<sup>6</sup>` is `10^6`, never `106`.

Of what is raised, an exponent gets a `^`: a number raised behind a digit, which would read as one number with it. What
no number can be taken for stays as it is: marks of footnotes and citations that link to them, letters (`1st`, `0.05a`),
charges and units (`Ca2+`, `cm-1`), squares of letters (`m2`).
"""

from __future__ import annotations

import re

_SIGN = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d-"  # the last is one in a class of characters too
_NUMBER = re.compile(rf"[+{_SIGN}]?\d+(?:[.,]\d+)*")
_EXPONENT = re.compile(rf"[+±~∼≈≤≥<>{_SIGN}]?\d")  # how one begins
_NEGATIVE = re.compile(rf"[{_SIGN}](?!(?:st|nd|rd|th)\b)[^\W\d_]")  # as in 2^-ΔΔCt
_BARE = re.compile(rf"[+±{_SIGN}]?(?:\d+(?:[.,]\d+)*[+{_SIGN}]?|[^\W_]+)")  # what needs no parentheses
_TEN = re.compile(r"(?<!\d)10\Z")
_SYMBOL = re.compile(rf"[nmxyN]\Z|[nmxykN][+{_SIGN}]\d+\Z")  # what stands for an exponent of ten, not for a footnote
_ISOTOPE = re.compile(  # of the elements whose isotopes are met most: `10 <sup>14</sup>C dates`
    r"(?:H|He|Li|B|C|N|O|F|P|S|Cl|K|Ca|Fe|Co|Cu|Ga|Rb|Sr|Tc|I|Xe|Cs|Pb|Ra|Th|U|Pu)(?![^\W\d_])"
)


def power(before: str, raised: str, after: str) -> str | None:
    """How a raised text is written where it is an exponent: `^6`, `^-3`, `^(6–8)`; else None.

    `before` and `after` are the text on its line. A blank at the end of `before` belongs to the power behind a ten, and
    is left out of what is returned: the caller takes it away.
    """
    exponent = "".join(raised.split()).replace("\xad", "-")  # a soft hyphen that was typed for a minus
    base = before.rstrip()
    if not base[-1:].isdecimal():
        return None
    is_number = _EXPONENT.match(exponent) is not None
    if base != before:
        if not (_TEN.search(base) and _NUMBER.fullmatch(exponent)) or _ISOTOPE.match(after):
            return None
    elif _TEN.search(base):
        is_number = is_number or _SYMBOL.match(exponent) is not None
    if not is_number and (_is_name(base) or not _NEGATIVE.match(exponent)):
        return None
    return f"^{exponent}" if _BARE.fullmatch(exponent) else f"^({exponent})"


def _is_name(base: str) -> bool:
    """Whether the digits at the end of a text belong to a name, as in `CD4` and `Vnn1`."""
    return re.search(r"[^\W\d_][-\u2010\u2011]?[\d.,]+\Z", base) is not None
