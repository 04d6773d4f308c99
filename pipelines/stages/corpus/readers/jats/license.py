"""The licence of an article of JATS, as SPDX writes it (`CC-BY-4.0`, `CC0-1.0`); `CC-BY` where no version is given.

A front matter may name several: one for the article, one for its data, one for text mining. What is said of data, code
or pictures alone is left out, and of the others the strictest holds: a corpus claims no more than it may.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.stages.corpus.readers.jats.meta import XLINK_HREF, local

_ADDRESS = re.compile(
    r"creativecommons\.org/(?:licen[cs]es/(by[a-z-]*|nc[a-z-]*)|publicdomain/(zero|mark))"
    r"(?:/(\d\.\d))?(?:/([a-z]{2,3})(?![\w.]))?",
    re.IGNORECASE,
)
_BLANKS = re.compile(r"\s+")
_HYPHENS = re.compile("[\u2010-\u2013]")
_CC_SHORT = re.compile(r"\bCC[ -]?(BY(?:[ /-](?:NC|ND|SA))*)\b(?:[ -]?v?(\d\.\d))?", re.IGNORECASE)
_CC_LONG = re.compile(
    r"creative\s*commons[\s,:]*(attribution[\w\s/-]*?)(?:licen[cs]e|unported|international|v?\.? ?\d\.\d|[,;.()]|$)"
    r"(?:[^.;]{0,20}?(\d\.\d))?",
    re.IGNORECASE,
)
_CC_TYPE = re.compile(r"creativecommons(by[a-z-]*)", re.IGNORECASE)  # as a publisher's type
_CC_ZERO = re.compile(r"\bCC[ -]?0\b|creative commons zero", re.IGNORECASE)
_PUBLIC = re.compile(r"\bpublic domain\b", re.IGNORECASE)
_ORDER = "BY NC ND SA"
_PARTS = (
    ("NC", re.compile(r"\bnon-?\s?commercial|\bnc\b", re.IGNORECASE)),
    ("ND", re.compile(r"\bno-?\s?deriv|\bnd\b", re.IGNORECASE)),
    ("SA", re.compile(r"\bshare-?\s?alike|\bsa\b", re.IGNORECASE)),
)
# Who else a licence is for: by the attributes of its element, or by what a clause of the text speaks of.
_DATA_KIND = re.compile(r"(?:meta|research-?)?data(?:sets?)?|code|software", re.IGNORECASE)
_OTHER_MATTER = re.compile(
    r"\b(?:(?:meta)?data(?:sets?)?|code|software|figures?|images?|photos?|photographs?|illustrations?|pictures?|videos?"
    r"|supplement\w*|third[- ]party|abstracts?|cover)\b",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\b(?:articles?|papers?|works?|manuscripts?|publications?|texts?|contents?)\b", re.IGNORECASE)
_WAIVER = re.compile(r"\bappl(?:y|ies) to (?:the |all )?(?:\w+ )?(?:meta)?data", re.IGNORECASE)
_CLAUSE = re.compile(
    r"\n|(?<=;) |(?<=\.) (?=[A-Z])| while(?:st)? | whereas |,? (?:and|but) (?=(?:the|its|all|any)\b)", re.IGNORECASE
)
_BLOCKS = frozenset(("license", "license-p", "p", "copyright-statement", "copyright-holder", "copyright-year"))
_LICENSES = frozenset(("license", "license_ref"))
_DEDICATED = ("CC0", "CC-PDM", "public-domain")


def license_of(meta: Any) -> str:
    """The licence of the article whose front matter this is; empty where it names none that is known here.

    What the elements state by address is the article's, rather than what their text says, unless that is no licence but
    a dedication to the public: of data it is often made, of an article seldom.
    """
    stated: list[str] = []
    said: list[str] = []
    for statement in meta:
        if local(statement) not in ("permissions", "license", "copyright-statement"):
            continue
        for element in statement.iter():
            if local(element) in _LICENSES and not _is_of_data(element):
                address = element.get(XLINK_HREF) or (element.text if local(element) == "license_ref" else "")
                stated += _licenses(address or "")
                said += _licenses(element.get("license-type", ""))
                said += _licenses(element.get("specific-use", ""))
        for clause in filter(None, map(str.strip, _CLAUSE.split("".join(_clauses(statement))))):
            is_of_other = bool(_OTHER_MATTER.search(clause)) and not _ARTICLE.search(clause)
            if not is_of_other and not _WAIVER.search(clause):
                said += _licenses(clause)
    found = _strictest(stated)
    if found and not found.startswith(_DEDICATED):
        return found
    return _strictest([*stated, *said])


def _is_of_data(element: Any) -> bool:
    """Whether a licence, or the one that it is a part of, is marked as that of data or code."""
    while element is not None and local(element) in _LICENSES:
        kinds = (element.get(name, "") for name in ("specific-use", "license-type", "content-type"))
        if any(_DATA_KIND.fullmatch(word) for kind in kinds for word in kind.split()):
            return True
        element = element.getparent()
    return False


def _clauses(element: Any) -> Iterator[str]:
    """An element's text with the addresses that its links lead to, a line for each element that is a block."""
    if local(element) == "license_ref" or _is_of_data(element):
        return
    is_block = local(element) in _BLOCKS
    yield "\n" if is_block else ""
    yield _one_line(element.text)
    for child in element:
        yield from _clauses(child)
        yield f" {child.get(XLINK_HREF, '')} " if local(child) not in _BLOCKS else ""
        yield _one_line(child.tail)
    yield "\n" if is_block else ""


def _one_line(text: str | None) -> str:
    return _BLANKS.sub(" ", _HYPHENS.sub("-", text or ""))


def _licenses(text: str) -> Iterator[str]:
    """The licences that a text names: by their addresses, else by their names."""
    addresses = list(_ADDRESS.finditer(text))
    for address in addresses:
        kind, public, version, place = address.groups()
        if public:
            yield ("CC0-" if public.lower() == "zero" else "CC-PDM-") + (version or "1.0")
        else:
            yield _written(kind, version, (place or "").upper())
    names = _ADDRESS.sub(" ", text)
    for short in _CC_SHORT.finditer(names):
        yield _written(short[1], short[2])
    for long in _CC_LONG.finditer(names):
        kinds = ["BY", *(name for name, pattern in _PARTS if pattern.search(long[1]))]
        version = re.search(r"\d\.\d", long[0])
        yield _written("-".join(kinds), version[0] if version else None)
    if kind := _CC_TYPE.fullmatch(text):
        yield _written(kind[1], None)
    if not addresses and _CC_ZERO.search(names):
        yield "CC0-1.0"
    elif not addresses and _PUBLIC.search(names):
        yield "public-domain"


def _written(kind: str, version: str | None, place: str = "") -> str:
    """A licence of Creative Commons with its parts in their order: `by-nd-nc` of 1.0 is `CC-BY-NC-ND-1.0`."""
    parts = filter(None, re.split(r"[ /-]", kind.upper()))
    ordered = sorted(parts, key=lambda part: _ORDER.find(part) if part in _ORDER else len(_ORDER))
    return "-".join(filter(None, ("CC", *ordered, version, place)))


def _strictest(licenses: list[str]) -> str:
    """The one that permits least; of equals one with a version, the first."""

    def rank(license: str) -> tuple[int, bool]:
        parts = license.split("-")
        strict = 8 * ("NC" in parts) + 4 * ("ND" in parts) + 2 * ("SA" in parts) + ("BY" in parts)
        return strict, any(map(str.isdigit, license.replace("CC0", "")))

    return max(licenses, key=rank, default="")
