"""Exponents of an article marked as such in its tree, before any of it is read: titles, tables and references too."""

from __future__ import annotations

import re
from typing import Any

from pipelines.stages.corpus.readers.jats.inline import FORMATTING, text_before
from pipelines.stages.corpus.readers.jats.meta import local
from pipelines.stages.corpus.readers.superscripts import power

_BASE_LENGTH = 16  # characters in which the number before a `sup` and what it belongs to stand
_LINKS = frozenset(("xref", "ext-link", "uri", "email", "fn"))
_STYLES = ("style", "style-type", "content-type")  # attributes that may say `superscript` or `vertical-align: super`
_TEN = re.compile(r"(?<!\d)10\s?\Z")
_LIST_SIGNS = " ,;\u2013-"  # between an exponent and the mark behind it


def mark_powers(article: Any) -> None:
    """Write `^` before the exponents. What links (`sup` in an `xref` or around one) is a mark and stays; so does what
    stands before a link in one `sup`, but behind a ten: `10<sup>6<xref>1</xref></sup>` is a power and a mark.
    """
    for sup in reversed(list(filter(_is_raised, article.iter("{*}sup", "{*}styled-content", "{*}named-content")))):
        if _continues(sup):  # an exponent's own exponent comes first, for the order is backwards
            continue
        before = text_before(sup, _BASE_LENGTH)
        link = next((part for part in sup if _links(part)), None)
        if link is not None:
            _mark_before_link(sup, link, before)
            continue
        written = power(before, _raised(sup), _after(sup))
        if written is None:
            continue
        if before != before.rstrip():
            _close_up(sup)
        if _is_continued(sup):  # a sign raised alone, the number raised behind it
            sup.text = "^" + (sup.text or "").lstrip()
            sup.tail = (sup.tail or "").lstrip()
        elif all(local(part) in FORMATTING for part in sup.iterdescendants()):
            del sup[:]
            sup.text = written
        else:  # formulas, which say more than their letters do
            opening, closing = ("^(", ")") if len(written) > 2 else ("^", "")
            sup.text = opening + (sup.text or "").lstrip()
            sup[-1].tail = (sup[-1].tail or "").rstrip() + closing


def _is_raised(element: Any) -> bool:
    return local(element) == "sup" or any("super" in element.get(name, "").lower() for name in _STYLES)


def _links(part: Any) -> bool:
    return local(part) in _LINKS or any(local(inner) in _LINKS for inner in part.iterdescendants())


def _mark_before_link(sup: Any, link: Any, before: str) -> None:
    """An exponent of ten that shares its `sup` with the mark behind it."""
    place = sup.index(link)
    raised = (sup.text or "") + "".join("".join(part.itertext()) + (part.tail or "") for part in sup[:place])
    exponent = raised.rstrip(_LIST_SIGNS)
    signs = raised[len(exponent) :]
    behind = signs or "".join(link.itertext())
    written = power(before, exponent, behind) if exponent and _TEN.search(before) else None
    if written is not None:
        del sup[:place]
        sup.text = written + signs


def _raised(sup: Any) -> str:
    """What is raised: of several in a row, such as a sign and its number, all."""
    text = "".join(sup.itertext())
    while _is_continued(sup):
        sup = sup.getnext()
        text += "".join(sup.itertext())
    return text


def _continues(sup: Any) -> bool:
    before = sup.getprevious()
    return before is not None and local(before) == "sup" and _is_beside(before)


def _is_continued(sup: Any) -> bool:
    behind = sup.getnext()
    return behind is not None and local(behind) == "sup" and _is_beside(sup) and not len(behind)


def _is_beside(sup: Any) -> bool:
    """Whether the next element is raised with this: next to it, or the number of a sign that is raised alone."""
    text = "".join(sup.itertext()).strip()
    return not sup.tail or (bool(text) and not sup.tail.strip() and not any(map(str.isalnum, text)))


def _after(sup: Any) -> str:
    """What stands behind it on its line, a few characters of it."""
    while not sup.tail and sup.getnext() is None and local(sup.getparent()) in FORMATTING:
        sup = sup.getparent()
    if sup.tail:
        return str(sup.tail)
    behind = sup.getnext()
    return "" if behind is None else "".join(behind.itertext())[:4]


def _close_up(sup: Any) -> None:
    """Take away the blank before an exponent."""
    before = sup.getprevious()
    if before is not None:
        before.tail = (before.tail or "").rstrip()
    else:
        parent = sup.getparent()
        parent.text = (parent.text or "").rstrip()
