"""What an article of JATS says of itself: identifiers, journal, date, licence, type, language, version.

Licences are written as SPDX writes them (`CC-BY-4.0`, `CC0-1.0`), `CC-BY` where no version is given: first by the
address of the licence, else by its name in the text.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

_LICENSE_URL = re.compile(
    r"creativecommons\.org/(?:licen[cs]es/(by[a-z-]*|nc[a-z-]*)|publicdomain/(zero|mark))"
    r"(?:/(\d\.\d))?(?:/([a-z]{2,3})(?![\w.]))?",
    re.IGNORECASE,
)
_CC_SHORT = re.compile(r"\bCC[ -]?(BY(?:[ -](?:NC|ND|SA))*)\b(?:[ -]?v?(\d\.\d))?", re.IGNORECASE)
_CC_LONG = re.compile(
    r"creative\s*commons[\s,:]*(attribution[\w\s-]*?)(?:licen[cs]e|unported|international|v?\.? ?\d\.\d|[,;.()]|$)"
    r"(?:[^.;]{0,20}?(\d\.\d))?",
    re.IGNORECASE,
)
_CC_ZERO = re.compile(r"\bCC[ -]?0\b|creative commons zero", re.IGNORECASE)
_PUBLIC = re.compile(r"\bpublic domain\b", re.IGNORECASE)
_PARTS = (
    ("NC", re.compile(r"\bnon-?\s?commercial", re.IGNORECASE)),
    ("ND", re.compile(r"\bno-?\s?deriv", re.IGNORECASE)),
    ("SA", re.compile(r"\bshare-?\s?alike", re.IGNORECASE)),
)
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


def metadata(article: Any) -> tuple[dict[str, str], str]:
    """Metadata (only what is known) and licence of an `article`, `sub-article` or `response`."""
    front = find(article, "front")
    stub = find(article, "front-stub")
    meta = find(front, "article-meta") if front is not None else stub
    found = {"article_type": article.get("article-type", ""), "language": article.get(XML_LANG, "").lower()}
    if meta is None:
        return _known(found), ""
    found.update(_identifiers(meta))
    journal = find(front, "journal-meta")
    title = find(journal, "journal-title-group", "journal-title")
    found["journal"] = plain(title if title is not None else find(journal, "journal-title"))
    if not found["journal"]:
        found["journal"] = plain(find(journal, "journal-id"))
    found["date"] = _date(meta)
    found["version"] = plain(find(meta, "article-version")) or found.get("version", "")
    return _known(found), license_of(meta)


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


def license_of(meta: Any) -> str:
    """The licence that the article's front matter names; empty where it names none that is known here."""
    addresses: list[str] = []
    texts: list[str] = []
    kinds: list[str] = []
    for child in meta:
        if local(child) not in ("permissions", "license", "copyright-statement"):
            continue
        for element in child.iter():
            name = local(element)
            if name == "license_ref":
                addresses.insert(0, element.text or "")
            addresses.append(element.get(XLINK_HREF, ""))
            if name == "license":
                kinds.append(element.get("license-type", ""))
        texts.append(plain(child))
    for text in (*addresses, *texts):
        if address := _LICENSE_URL.search(text):
            return _by_address(address)
    return next(filter(None, map(_by_name, (*texts, *kinds))), "")


def _by_address(found: re.Match[str]) -> str:
    kind, public, version, place = found.groups()
    if public:
        return ("CC0-" if public.lower() == "zero" else "CC-PDM-") + (version or "1.0")
    return "-".join(filter(None, ("CC", kind.upper().strip("-"), version, (place or "").upper())))


def _by_name(text: str) -> str:
    if short := _CC_SHORT.search(text):
        return "-".join(filter(None, ("CC", re.sub(r"[ -]", "-", short[1].upper()), short[2])))
    if full := _CC_LONG.search(text):
        parts = [name for name, pattern in _PARTS if pattern.search(full[1])]
        version = re.search(r"\d\.\d", full[0])
        return "-".join(("CC", "BY", *parts, *([version[0]] if version else [])))
    if _CC_ZERO.search(text):
        return "CC0-1.0"
    if text.lower() == "creativecommonsby":
        return "CC-BY"
    return "public-domain" if _PUBLIC.search(text) else ""
