"""Which licence may stand over a model: that of its sources which asks for all that the others ask for, if one does.

What licences ask for, from little to much: nothing, a notice (MIT, Apache, CC BY), the same terms for what is derived
(GPL, CC BY-SA), no commercial use (NC), nothing derived at all (ND). Where each of two asks for what the other does not
(NC beside SA, two that want their own terms), neither covers the other; an unknown one is covered by none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.stages import licenses
from pipelines.stages.license_names import PUBLIC_DOMAIN

FREE = frozenset(
    ("CC0-1.0", "CC-PDM-1.0", "PDDL-1.0", "Unlicense", "0BSD", "MIT-0", "WTFPL", PUBLIC_DOMAIN)
)  # ask for nothing
NOTICE = re.compile(
    r"(MIT|ISC|Zlib|HPND|PSF|Python|BSD-[1234]-Clause|BSL|Apache|PostgreSQL|NCSA|UPL|AFL|X11|Artistic-2|ODC-By|CC-BY"
    r"|CDLA-Permissive|MS-PL|ECL|etalab|OGL-UK|ZPL|BlueOak)(-[\w.-]+)?"
)
COPYLEFT = re.compile(
    r"(A?GPL|LGPL|GFDL|MPL|EPL|EUPL|OSL|CDDL|MS-RL|ODbL|CDLA-Sharing|CC-BY-SA|CC-BY-NC-SA|CeCILL|LPPL|OFL|Sleepycat)(-[\w.-]+)?"
)
CREATIVE_COMMONS = re.compile(r"(CC-BY(?:-NC)?(?:-SA|-ND)?)(-\d.*)?")
# Of licences that ask for the same, the one that says most about it.
ORDER = ("CC-BY", "Apache", "BSD-4", "BSD-3", "BSD-2", "MIT", "ISC")
# What the Hub takes in the field `license`.
HUB = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc-by-2.0
    cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl
    gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 osl-3.0 pddl
    postgresql unlicense wtfpl zlib
    """.split()  # noqa: SIM905
)
HUB_NAMES = {"pddl-1.0": "pddl", "c-uda-1.0": "c-uda", "odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "gpl-1.0": "gpl",
             "lgpl-2.0": "lgpl", "gfdl-1.1": "gfdl", "gfdl-1.2": "gfdl", "gfdl-1.3": "gfdl"}  # fmt: skip
NON_COMMERCIAL, NO_DERIVATIVES = "no commercial use", "nothing that is derived"


@dataclass(frozen=True)
class Claim:
    """What the front matter says of the licence, and the sentence that explains it."""

    fields: dict[str, str]
    sentence: str


def claim(names: Iterable[str]) -> Claim:
    """The claim for sources under these licences, names or expressions of SPDX."""
    single = sorted({part for name in names for part in parts(licenses.normalize(name))})
    asked = {name: conditions(name) for name in single}
    everything = frozenset().union(*asked.values())
    covering = [name for name in single if asked[name] == everything]
    known = [name for name in single if name != licenses.UNKNOWN]
    if not known:
        return Claim({"license": "other", "license_name": "unknown"}, "No source says under which licence it stands.")
    if not covering or not all(map(is_known, single)):
        return Claim({"license": "other", "license_name": "mixed" if len(single) > 1 else slug(known[0])}, _why(single))
    best = min(covering, key=lambda name: (_order(name), hub_name(name) not in HUB, [-n for n in _version(name)], name))
    fields = {"license": hub_name(best)}
    if fields["license"] not in HUB:
        fields = {"license": "other", "license_name": slug(best)}
    if len(single) == 1:
        return Claim(fields, f"All sources may be used under {best}." + _limits(everything))
    return Claim(
        fields,
        f"Of the sources' licences ({', '.join(single)}) {best} asks for most, and bounds what may be claimed; what "
        "the others ask for, such as notices, holds for their part." + _limits(everything),
    )


def conditions(name: str) -> frozenset[str]:
    """What one licence asks for; an unknown one asks for what no other does."""
    name = name.partition(" WITH ")[0]
    if name in FREE:
        return frozenset()
    if not is_known(name):
        return frozenset({f"terms of {name}"})
    found = {"notice"}
    if name.startswith("C-UDA"):
        found.add("computational use only")
    if cc := CREATIVE_COMMONS.fullmatch(name):
        kind = cc[1]
        found |= {condition for part, condition in (("-NC", NON_COMMERCIAL), ("-ND", NO_DERIVATIVES)) if part in kind}
        return frozenset(found | ({f"the terms of {kind}"} if "-SA" in kind else set()))
    if COPYLEFT.fullmatch(name):
        found.add(f"the terms of {re.sub('-(only|or-later)$', '', name)}")
    return frozenset(found)


def is_known(name: str) -> bool:
    """Whether it is known here what a licence asks for."""
    name = name.partition(" WITH ")[0]
    patterns = (NOTICE, COPYLEFT, CREATIVE_COMMONS)
    return name in FREE or name.startswith("C-UDA") or any(pattern.fullmatch(name) for pattern in patterns)


def parts(expression: str) -> list[str]:
    """The licences of an expression that all hold; of alternatives the one that asks for least."""
    if terms := _split(expression, " AND "):
        return [part for term in terms for part in parts(term)]
    if terms := _split(expression, " OR "):
        return min((parts(term) for term in terms), key=lambda found: (_weight(found), found))
    inner = expression.strip()
    return parts(inner[1:-1]) if inner.startswith("(") and inner.endswith(")") else [inner]


def hub_name(name: str) -> str:
    """A licence's name as the Hub writes it."""
    found = re.sub("-(only|or-later)$", "", name.partition(" WITH ")[0].lower())
    return HUB_NAMES.get(found, found)


def slug(name: str) -> str:
    """A licence's name as the Hub wants it: lower case, letters, digits, dots and hyphens."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split())


def _split(expression: str, operator: str) -> list[str]:
    """The terms around an operator outside of brackets; none where it does not occur."""
    terms, depth, begin = [], 0, 0
    for place, sign in enumerate(expression):
        depth += (sign == "(") - (sign == ")")
        if not depth and expression.startswith(operator, place):
            terms.append(expression[begin:place])
            begin = place + len(operator)
    return [*terms, expression[begin:]] if terms else []


def _weight(names: list[str]) -> tuple[bool, int]:
    return not all(map(is_known, names)), len(frozenset().union(*map(conditions, names)))


def _order(name: str) -> int:
    return next((place for place, begin in enumerate(ORDER) if name.startswith(begin)), len(ORDER))


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _limits(asked: frozenset[str]) -> str:
    found = [condition for condition in (NON_COMMERCIAL, NO_DERIVATIVES) if condition in asked]
    found += sorted(condition for condition in asked if condition.startswith("the terms of "))
    if not found:
        return ""
    said = {NON_COMMERCIAL: "forbids commercial use", NO_DERIVATIVES: "forbids to publish what is derived from them"}
    told = [said.get(condition, f"wants {condition} for what is derived from them") for condition in found]
    return f" It {' and '.join(told)}; whether a model is derived from its data is a question of law."


def _why(single: list[str]) -> str:
    strange = [name for name in single if not is_known(name) and name != licenses.UNKNOWN]
    if licenses.UNKNOWN in single:
        reason = "the licence of a part is unknown"
    elif strange:
        reason = f"what {' and '.join(strange)} asks for is not known here"
    else:
        reason = "none of them covers what the others ask for"
    return (
        f"No licence can be claimed for the whole ({', '.join(single)}): {reason}. "
        "Ask the owners of the sources, or leave sources out, before you publish the model."
    )
