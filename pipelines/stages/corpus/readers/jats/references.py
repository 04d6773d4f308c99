"""A reference as one line: as it reads where the publisher punctuated it, else put together from its parts."""

from __future__ import annotations

from typing import Any

from pipelines.stages.corpus.readers.jats.meta import find, local, plain

_CITATIONS = frozenset(("element-citation", "mixed-citation", "citation", "nlm-citation", "note", "p"))
_PEOPLE = frozenset(("name", "string-name", "collab", "etal", "anonymous"))
_TITLES = ("article-title", "chapter-title", "data-title", "part-title", "trans-title")
_SKIPPED = frozenset(("object-id", "ext-link", "person-group", "date-in-citation", *_PEOPLE))


def reference_text(ref: Any) -> str:
    """The text of a `ref` (its label before it) or of a citation that stands alone."""
    if local(ref) != "ref":
        return citation_text(ref)
    parts: list[str] = []
    for child in ref.iter():
        name = local(child)
        if name == "label" or (name in _CITATIONS and local(child.getparent()) not in _CITATIONS):
            parts.append(plain(child) if name == "label" else citation_text(child))
    return " ".join(filter(None, parts))


def citation_text(citation: Any) -> str:
    """A citation's text; of parts without punctuation, `Authors (year). Title. Source volume(issue):pages. Rest`."""
    if (citation.text or "").strip() or any((child.tail or "").strip() for child in citation):
        return plain(citation)
    parts: dict[str, str] = {}
    rest: list[str] = []
    for child in citation:
        name = local(child)
        if name in ("year", "source", "volume", "issue", "fpage", "lpage", "elocation-id", *_TITLES):
            parts.setdefault(name, plain(child).rstrip("."))
        elif name == "label":
            continue
        elif name not in _SKIPPED:
            rest.append(plain(child))
    title = next((parts[name] for name in _TITLES if name in parts), "")
    pages = "–".join(parts[name] for name in ("fpage", "lpage") if name in parts) or parts.get("elocation-id", "")
    issue = f"({parts['issue']})" if "issue" in parts else ""
    place = f"{parts.get('source', '')} {parts.get('volume', '')}{issue}".strip()
    year = f"({parts['year']})" if "year" in parts else ""
    head = " ".join(filter(None, (", ".join(filter(None, _people(citation))), year)))
    return ". ".join(filter(None, (head, title, f"{place}:{pages}" if place and pages else place or pages, *rest)))


def person_text(name: Any) -> str:
    """A `name` in running text: given names before the surname."""
    parts = {local(child): plain(child) for child in name}
    order = ("prefix", "given-names", "surname", "suffix")
    return " ".join(parts[part] for part in order if parts.get(part)) or plain(name)


def short_citation(ref: Any) -> tuple[str, str]:
    """Authors and year as a text names a reference: `Doe and Roe`, `Doe et al.`; empty where it does not say."""
    citation = next((child for child in ref.iter() if local(child) in _CITATIONS), ref)
    people = [child for child in citation.iter() if local(child) in _PEOPLE]
    names = [plain(find(person, "surname")) or plain(person) for person in people if local(person) != "etal"]
    year = next((plain(child) for child in citation.iter() if local(child) == "year"), "")
    if len(names) > 2 or len(names) < len(people):
        return f"{names[0]} et al." if names else "", year
    return " and ".join(names), year


def _people(citation: Any) -> list[str]:
    people: list[str] = []
    for child in citation:
        if local(child) == "person-group":
            people += _people(child)
        elif local(child) == "etal":
            people.append("et al")
        elif local(child) in ("name", "string-name") and not (child.text or "").strip() and len(child):
            parts = {local(part): plain(part) for part in child}
            people.append(" ".join(filter(None, (parts.get("surname", ""), parts.get("given-names", "")))))
        elif local(child) in _PEOPLE:
            people.append(plain(child))
    return people
