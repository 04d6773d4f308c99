"""What an article of JATS says of itself: identifiers, journal, date, type, language, version."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

PMCID = re.compile(r"(?:^|[/#])(PMC\d+)(?:\.\d+)?\.[A-Za-z.]+$")  # at the end of a file's or member's name
_DOI = re.compile(r"^(?:https?://(?:dx\.)?doi\.org/|doi:\s*)", re.IGNORECASE)
_ISO_DATE = re.compile(r"\d{4}(?:-\d\d(?:-\d\d)?)?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# The day of publication rather than that of an issue, a collection or a release to PMC.
_DATE_RANK = {"epub": 0, "pub-electronic": 0, "pub": 0, "epub-ppub": 1, "ppub": 2, "pub-print": 2, "collection": 3}
_LATE_DATES = frozenset(("pmc-release", "epreprint", "preprint", "retracted", "corrected", "nihms-submitted"))


def local(element: Any) -> str:
    """An element's name without its namespace."""
    tag: str = element.tag
    return tag.rpartition("}")[2]


def plain(element: Any) -> str:
    """All text of an element on one line; empty for None."""
    return "" if element is None else " ".join("".join(element.itertext()).split())


def find(element: Any, *names: str) -> Any:
    """The first child, grandchild and so on along the path of local names, or None."""
    for name in names:
        if element is None:
            return None
        element = next((child for child in element if local(child) == name), None)
    return element


def meta_of(article: Any) -> Any:
    """The element that holds the metadata of an `article`, `sub-article` or `response`, or None."""
    front = find(article, "front")
    return find(front, "article-meta") if front is not None else find(article, "front-stub")


def metadata(article: Any) -> dict[str, str]:
    """Metadata (only what is known) of an `article`, `sub-article` or `response`."""
    front, meta = find(article, "front"), meta_of(article)
    found = {"article_type": article.get("article-type", ""), "language": article.get(XML_LANG, "").lower()}
    if meta is None:
        return _known(found)
    found.update(_identifiers(meta))
    journal = find(front, "journal-meta")
    title = find(journal, "journal-title-group", "journal-title")
    found["journal"] = plain(title if title is not None else find(journal, "journal-title"))
    if not found["journal"]:
        found["journal"] = plain(find(journal, "journal-id"))
    found["date"] = _date(meta)
    found["version"] = plain(find(meta, "article-version")) or found.get("version", "")
    return _known(found)


def url_of(known: dict[str, str]) -> str:
    """The article's address: by DOI, else at PMC, else at PubMed."""
    if "doi" in known:
        return f"https://doi.org/{quote(known['doi'], safe='/:;().,_-')}"
    if "pmcid" in known:
        return f"https://pmc.ncbi.nlm.nih.gov/articles/{known['pmcid']}/"
    return f"https://pubmed.ncbi.nlm.nih.gov/{known['pmid']}/" if "pmid" in known else ""


def _known(found: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in found.items() if value}


def _identifiers(meta: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for element in meta:
        if local(element) != "article-id":
            continue
        kind, value = element.get("pub-id-type", ""), plain(element)
        if kind in ("pmc", "pmcid") and (number := re.fullmatch(r"(?:PMC)?\s*(\d+)(?:\.(\d+))?", value, re.IGNORECASE)):
            found.setdefault("pmcid", f"PMC{number[1]}")
            found.setdefault("version", number[2] or "")
        elif kind == "pmcid-ver" and "." in value:
            found["version"] = value.rpartition(".")[2]
        elif kind == "pmid" and value.isdigit():
            found.setdefault("pmid", value)
        elif kind == "doi":
            found.setdefault("doi", _DOI.sub("", value))
    return found


def _date(meta: Any) -> str:
    """Date of publication, as precise as given: `2006`, `2006-02` or `2006-02-14`."""
    best, best_rank = "", 9
    for element in meta:
        if local(element) != "pub-date":
            continue
        kind = element.get("pub-type") or "-".join(
            filter(None, (element.get("date-type", ""), element.get("publication-format", "")))
        )
        rank = 5 if kind in _LATE_DATES else _DATE_RANK.get(kind, 4)
        if rank < best_rank and (date := _iso(element)):
            best, best_rank = date, rank
    return best


def _iso(element: Any) -> str:
    stated = _ISO_DATE.match(element.get("iso-8601-date", ""))
    if stated:
        return stated[0]
    year, month, day = (plain(find(element, part)) for part in ("year", "month", "day"))
    if not re.fullmatch(r"\d{4}", year):
        return ""
    if month.isdigit():
        number = int(month)
    else:
        name = month[:3].lower() if month.isalpha() else ""
        number = _MONTHS.index(name) + 1 if name in _MONTHS else 0
    if not 1 <= number <= 12:
        return year
    return f"{year}-{number:02d}-{int(day):02d}" if day.isdigit() and 1 <= int(day) <= 31 else f"{year}-{number:02d}"
