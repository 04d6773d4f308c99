"""What in an article is about its authors rather than its matter: funding, contributions, conflicts of interest.

A section of the back matter is, by its type or its heading. In the body or an abstract the same heading may be the
matter itself (`Funding` of hospitals, `Contributions` of a method): there only a short one is, behind which nothing
but others of the kind, data and supplements stand.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from pipelines.stages.corpus.readers.jats.meta import find, local, plain

MOST_BEHIND = 30  # parts behind a section at the end
SHORT_CHARACTERS = 2000  # a statement of a dozen authors' contributions
_ABOUT_KINDS = re.compile(
    r"ack|author-contrib.*|award|coi-statement|com|competing-interests?|con|conflict|corresp|current-aff|deceased"
    r"|edited-by|equal|financial-disclosure|funding.*|participating-researchers|present-address|presented-(?:at|by)"
    r"|study-group-members|supported-by",
    re.IGNORECASE,
)
_ABOUT_AUTHORS = re.compile(
    r"[\d.\s]*(?:acknowledge?ments?|acknowledge?ments? and funding|funding(?: sources?| statement| information)?"
    r"|(?:financial|grant) (?:support|disclosures?)(?: and sponsorship)?|sources? of funding|disclosures?"
    r"|(?:(?:declarations?|statements?|disclosures?) of )?(?:potential )?"
    r"(?:competing|conflicts? of|conflicting|financial|competing financial) interests?(?: statements?| disclosures?)?"
    r"|authors?['’]?s?['’]? (?:contributions?|disclosures?)|contributions|contributors?"
    r"|agradecimi?entos?|confli[ct]t?os? de inter[eé]ss?e?s?|financiamento|financiamiento|financiación)[\s.:]*",
    re.IGNORECASE,
)

# What stands behind the matter as well.
_END_TYPES = frozenset(("supplementary-material", "data-availability", "ethics-statement", "display-objects"))
_END_MATTER = re.compile(
    r"[\d.\s]*(?:supplement\w*(?: \w+)?|supporting information|additional (?:files?|information|data)|appendix.*"
    r"|(?:data|code|materials?|software)\b.*\bavailability.*|availability of .*|abbreviations|ethic\w*.*"
    r"|(?:informed |patient )?consent.*|declarations?|notes?|footnotes?|references|(?:clinical )?trial registration"
    r"|publisher['’]s note|disclaimer|provenance.*|orcid.*|guarantor|peer review.*|about the authors?)[\s.:]*",
    re.IGNORECASE,
)


def is_about_authors(element: Any, heading: str) -> bool:
    """By its type or its heading, wherever it stands."""
    kind = element.get("fn-type") or element.get("sec-type") or element.get("notes-type") or ""
    return bool(_ABOUT_KINDS.fullmatch(kind) or _ABOUT_AUTHORS.fullmatch(heading))


def is_section_about_authors(section: Any) -> bool:
    """By its type or its heading, and in the body or an abstract by its length and place."""
    if not is_about_authors(section, _heading(section)):
        return False
    holders = [local(above) for above in section.iterancestors()]
    if "body" not in holders and "abstract" not in holders and "trans-abstract" not in holders:
        return True
    parts = [part for part in section if local(part) == "sec"]
    if len(plain(section)) > SHORT_CHARACTERS or not all(is_about_authors(part, _heading(part)) for part in parts):
        return False
    while local(section) == "sec":
        behind = list(islice(section.itersiblings(), MOST_BEHIND + 1))
        if len(behind) > MOST_BEHIND or not all(map(_is_end_matter, behind)):
            return False
        section = section.getparent()
    return True


def _heading(section: Any) -> str:
    return plain(find(section, "title"))


def _is_end_matter(element: Any) -> bool:
    """Whether a section is what stands behind the matter; of other parts, all are but paragraphs."""
    if local(element) != "sec":
        return local(element) != "p"
    title = _heading(element)
    is_end = _END_MATTER.fullmatch(title) is not None or element.get("sec-type") in _END_TYPES
    return is_end or is_about_authors(element, title)
