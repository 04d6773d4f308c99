"""Exponents of an article marked as such in its tree, before any of it is read: titles, tables and references too."""

from __future__ import annotations

from typing import Any

from pipelines.stages.corpus.readers.jats.inline import FORMATTING, text_before
from pipelines.stages.corpus.readers.jats.meta import local
from pipelines.stages.corpus.readers.superscripts import power

_BASE_LENGTH = 16  # characters in which the number before a `sup` and what it belongs to stand


def mark_powers(article: Any) -> None:
    """Write `^` before the exponents. What links (`sup` in an `xref` or around one) is a mark and stays."""
    for sup in reversed(list(article.iter("{*}sup"))):  # an exponent's own exponent first
        if any(local(part) not in FORMATTING for part in sup.iterdescendants()) or _continues(sup):
            continue
        before = text_before(sup, _BASE_LENGTH)
        written = power(before, _raised(sup), _after(sup))
        if written is None:
            continue
        if before != before.rstrip():
            _close_up(sup)
        if _is_continued(sup):  # a sign raised alone, the number raised behind it
            sup.text = "^" + (sup.text or "").lstrip()
        else:
            del sup[:]
            sup.text = written


def _raised(sup: Any) -> str:
    """What is raised: of several in a row, such as a sign and its number, all."""
    text = "".join(sup.itertext())
    while _is_continued(sup):
        sup = sup.getnext()
        text += "".join(sup.itertext())
    return text


def _continues(sup: Any) -> bool:
    before = sup.getprevious()
    return before is not None and local(before) == "sup" and not before.tail


def _is_continued(sup: Any) -> bool:
    behind = sup.getnext()
    return behind is not None and local(behind) == "sup" and not sup.tail and not len(behind)


def _after(sup: Any) -> str:
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
