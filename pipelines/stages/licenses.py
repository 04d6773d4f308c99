"""Names of licences as SPDX writes them, so that one licence has one name wherever it is counted.

`packaging` knows the identifiers and reads expressions; what people write besides (`Apache License, Version 2.0`, `New
BSD`, classifiers of PyPI, addresses) is told here by words. A name that is not known stays as it was written.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from pipelines.stages.license_names import ADDRESSES, NAMES

UNKNOWN = "unknown"

_CC_ADDRESS = re.compile(
    r"creativecommons\.org/licen[cs]es/(by(?:-(?:nc|nd|sa))*)(?:/(\d\.\d))?(?:/([a-z]{2,3})(?![\w.]))?"
)
_GNU_ADDRESS = re.compile(r"gnu\.org/(?:copyleft|licenses)/(?:old-licenses/)?([al]?gpl)(?:-(\d(?:\.\d)?))?")
_SPDX_ADDRESS = re.compile(r"spdx\.org/licenses/([\w.+-]+?)(?:\.html|\.json|\.txt)?/?$")
# The whole of a name: what says more than a licence's own words is none of ours to shorten.
_CC_NAME = re.compile(
    r"(?:cc|ccby|creative commons|by|attribution|nc|non|commercial|noncommercial|sa|share|alike|sharealike|nd|no"
    r"|deriv\w*|noderiv\w*|works|public|deed|intl|igo|\d(?:\.\d)?| )+"
)
_CC_PARTS = (
    ("NC", re.compile(r"\bnc\b|\bnon ?commercial\b")),
    ("SA", re.compile(r"\bsa\b|\bshare ?alike\b")),
    ("ND", re.compile(r"\bnd\b|\bno ?deriv(?:ative|ate)?s?(?: works?)?\b")),
)
_GNU_FAMILIES = (  # the first that is named
    ("AGPL", re.compile(r"\baffero\b|\bagpl")),
    ("LGPL", re.compile(r"\blesser\b|\blibrary\b|\blgpl")),
    ("GFDL", re.compile(r"\bgfdl|\bgnu free documentation\b")),
    ("GPL", re.compile(r"\bgpl|\bgeneral public\b")),
)
_GNU_NAME = re.compile(
    r"(?:gnu|general|public|lesser|library|affero|free|documentation|or|any|later|newer|above|only|a?l?gpl|gfdl|>=|\+|\.0"
    r"|\d(?:\.\d)?| )+"
)
_GNU_ANY = {"GPL": "1.0", "LGPL": "2.0", "AGPL": "1.0", "GFDL": "1.1"}
_LATER = re.compile(r"\+|>=|\bor ?(?:any )?(?:later|newer|above)\b")
_OLD_GNU = re.compile(r"((?:A|L)?GPL|GFDL)-(\d\.\d)(\+?)")
_VERSION = re.compile(r"(?<![\d.])(\d(?:\.\d)?)(?:\.0)?(?![\d.])")
_FILLER = re.compile(
    r"\b(?:the|licen[cs]ed?|version|ver|v|software|clauses?|international|unported|generic|under|osi approved)\b"
)
_NUMBERS = {"two": "2", "three": "3", "four": "4", "zero clause": "0"}
_OPERATORS = re.compile(r"\s+(and|or)\s+", re.IGNORECASE)
_SEPARATORS = re.compile(r"\s*[,;]\s*")


def normalize(value: Any) -> str:
    """The SPDX name of a licence, or of several in a list: all of them hold. `unknown` where nothing is said.

    Normalizing twice changes nothing.
    """
    if isinstance(value, str):
        return _normalize(value)
    if isinstance(value, Iterable):
        return join(_normalize(part) for part in value if isinstance(part, str))
    return UNKNOWN


def join(names: Iterable[str]) -> str:
    """One name for licences that all hold, each named once, in the order given."""
    parts = [name for name in dict.fromkeys(names) if name != UNKNOWN]
    if len(parts) == 1:
        return parts[0]
    return " AND ".join(f"({part})" if " OR " in part else part for part in parts) or UNKNOWN


def counted(counts: Iterable[tuple[Any, int]]) -> dict[str, int]:
    """Counts by licence under one name each, the largest first."""
    total: Counter[str] = Counter()
    for license, number in counts:
        total[normalize(license)] += number
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


@functools.lru_cache(maxsize=4096)
def _normalize(text: str) -> str:
    text = " ".join(text.split())
    if text.lower() in ("", UNKNOWN, "none", "null", "n/a"):
        return UNKNOWN
    if "::" in text:  # a classifier of PyPI
        last = text.rpartition("::")[2].strip()
        return _known(last) or (UNKNOWN if last == "OSI Approved" else last)
    return _known(text) or _several(text) or text


def _known(text: str) -> str:
    """The SPDX name of one licence or of an expression; empty where it is not known."""
    return _identifier(text) or _by_address(text.lower()) or _by_words(text.lower())


def _identifier(text: str) -> str:
    try:
        found = str(canonicalize_license_expression(text))
    except (InvalidLicenseExpression, ValueError):
        return ""
    return _OLD_GNU.sub(_current, found) if _OLD_GNU.search(found) else found


def _current(found: re.Match[str]) -> str:
    """Today's identifier for one that SPDX has given up: `GPL-3.0` and `GPL-3.0+`."""
    following = found.string[found.end() :]
    if following.startswith(("-only", "-or-later", "-invariants", "-no-invariants")):
        return found[0]
    return f"{found[1]}-{found[2]}-{'or-later' if found[3] else 'only'}"


def _by_address(text: str) -> str:
    if "/" not in text or "." not in text:
        return ""
    if cc := _CC_ADDRESS.search(text):
        return _creative_commons(cc[1].upper(), cc[2] or "", cc[3] or "")
    if gnu := _GNU_ADDRESS.search(text):
        return _gnu(gnu[1].upper(), gnu[2] or "", later=False)
    if spdx := _SPDX_ADDRESS.search(text):
        return _identifier(spdx[1])
    return next((name for pattern, name in ADDRESSES.items() if re.search(pattern, text)), "")


def _by_words(text: str) -> str:
    later = bool(_LATER.search(text))
    if found := _name(text, later):
        return found
    # `ISC License (ISCL)`: the name and its short form. What else stands in brackets is a condition of its own.
    short = re.findall(r"\(([^()]*)\)", text)
    names = [_identifier(part) or _name(part, later) for part in short]
    if not names or not all(names):
        return ""
    named = _name(re.sub(r"\([^()]*\)", " ", text), later)
    return named or (names[0] if re.fullmatch(r"[^()]+\([^()]+\)", text) else "")


def _name(text: str, later: bool) -> str:
    words = _words(text)
    return NAMES.get(words) or _cc_by_words(words) or _gnu_by_words(words, later)


def _words(text: str) -> str:
    """A name without what says nothing: signs, `the`, `license`, the nought of a version."""
    text = re.sub(r",? (?:january 2004|june 2007|june 1991)\b", "", text)  # of Apache's and GNU's texts
    text = re.sub(r"(?<=[a-z])[ -]?v(?:ersion)?[ .]*(?=\d)", " ", text)
    text = re.sub(r"(?<![\d.])(\d+)\.0(?![\d.])", r"\1", text)
    text = re.sub(r"[^\w.+>=]+|(?<!\d)\.|\.(?!\d)", " ", text)
    for word, number in _NUMBERS.items():
        text = re.sub(rf"\b{word}\b", number, text)
    return " ".join(_FILLER.sub(" ", text.replace("_", " ")).split())


def _cc_by_words(words: str) -> str:
    if not _CC_NAME.fullmatch(words) or not re.match(r"ccby|(?:cc|creative commons) (?:by|attribution)\b", words):
        return ""
    parts = [name for name, pattern in _CC_PARTS if pattern.search(words)]
    version = _VERSION.search(words)
    place = re.search(r"\b(igo)\b", words)
    number = version[1] if version else ""
    return _creative_commons("-".join(("BY", *parts)), number, place[1] if place else "")


def _creative_commons(kind: str, version: str, place: str) -> str:
    """`CC-BY-NC-4.0`; without a version where none is named, and of a place where SPDX knows it."""
    if not version:
        return f"CC-{kind}"
    name = f"CC-{kind}-{version if '.' in version else version + '.0'}"
    return (_identifier(f"{name}-{place}") if place else "") or name


def _gnu_by_words(words: str, later: bool) -> str:
    family = next((name for name, pattern in _GNU_FAMILIES if pattern.search(words)), "")
    if not family or not _GNU_NAME.fullmatch(words):
        return ""
    version = re.search(r"(\d(?:\.\d)?)", words)
    return _gnu(family, version[1] if version else "", later)


def _gnu(family: str, version: str, later: bool) -> str:
    if not version:
        return f"{family}-{_GNU_ANY[family]}-or-later"
    number = version if "." in version else f"{version}.0"
    return _identifier(f"{family}-{number}-{'or-later' if later else 'only'}")


def _several(text: str) -> str:
    """An expression of names that are all known, such as `MIT or Apache 2.0` and `MIT, BSD`; empty otherwise."""
    pieces = _OPERATORS.split(text)
    if len(pieces) > 1:
        found = [_operand(piece) if place % 2 == 0 else piece.upper() for place, piece in enumerate(pieces)]
        return _identifier(" ".join(found)) or " ".join(found) if all(found) else ""  # `CC-BY` has no identifier
    for separator in (_SEPARATORS, re.compile(r"\s*/\s*")):
        parts = [_known(part) for part in separator.split(text)]
        if len(parts) > 1 and all(parts):
            return join(parts) if separator is _SEPARATORS else " OR ".join(dict.fromkeys(parts))
    return ""


def _operand(text: str) -> str:
    """A name within an expression, with the brackets that belong to the expression."""
    opening = re.match(r"[(\s]*", text)
    lead = opening[0].count("(") if opening else 0
    surplus = text.count("(") - text.count(")")
    front, back = (surplus, 0) if surplus > 0 else (0, -surplus)
    front = min(front, lead)
    inner = text.strip()
    for _ in range(front):
        inner = inner[1:].strip()
    for _ in range(back):
        inner = inner[:-1].strip() if inner.endswith(")") else inner
    found = _known(inner)
    return "(" * front + found + ")" * back if found else ""
