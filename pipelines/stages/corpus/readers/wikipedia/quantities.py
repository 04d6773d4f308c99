"""Templates of MediaWiki that show a quantity, a date or a formula, as text.

Sources: the documentation of English Wikipedia's Convert, Val, Frac, Chem, Chem2, As of, Birth date and Start date. A
quantity is shown as it was written, with its own unit: the converted one follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Codes of Convert that readers see otherwise; every other code is a unit's own symbol or name.
_UNITS = {
    "c": "°C", "f": "°F", "k": "K", "cc": "cm³", "cuft": "cu ft", "cuin": "cu in", "cumi": "cu mi", "cuyd": "cu yd",
    "ftlb": "ft⋅lb", "ftlbf": "ft⋅lbf", "impgal": "imp gal", "lb-ft": "lb⋅ft", "lbft": "lb⋅ft", "lt": "long tons",
    "mpgimp": "mpg‑imp", "mpgus": "mpg‑US", "psqmi": "/sq mi", "pd/sqmi": "/sq mi", "sqft": "sq ft", "sqin": "sq in",
    "sqkm": "km²", "sqm": "m²", "sqmi": "sq mi", "sqyd": "sq yd", "st": "short tons", "usgal": "US gal",
    "usqt": "US qt",
    "kph": "km/h", "u.s.gal": "US gal",
}  # fmt: skip
_POWER = re.compile(r"(?<=[A-Za-z])([23])\b")
_POWERS = {"2": "²", "3": "³"}
_MILLIONS = {"e3": "thousand ", "e6": "million ", "e9": "billion ", "e12": "trillion "}
_MANY = re.compile(r"(e(?:3|6|9|12))(?=[A-Za-z])")
_RANGES = {
    "to": " to ", "and": " and ", "or": " or ", "and(-)": " and ", "to(-)": " to ", "to about": " to about ",
    "by": " by ", "x": " × ", "×": " × ", "xx": " × ", "*": " × ", "+": " + ", ",": ", ", ", and": ", and ",
    ", or": ", or ",
    "-": "–", "–": "–", "to-": " to ", "+/-": " ± ", "±": " ± ", "&": " & ", "/": "/", "à": " à ", "bis": " bis ",
    "a": " a ", "до": " до ", "—": "–", "～": "～", "~": "~", "至": "至", "и": " и ", "et": " et ", "und": " und ",
    "y": " y ",
    "thru": " through ", "above": " above ", "below": " below ",
}  # fmt: skip
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_CHARGE = re.compile(r"\d*[+−–-]|[+−–-]\d*")

Values = Mapping[str, str]


def positional(values: Values) -> list[str]:
    """The values without names, from the first on."""
    found: list[str] = []
    while (name := str(len(found) + 1)) in values:
        found.append(values[name].strip())
    return found


def convert(values: Values) -> str:
    """`1300 mi` of `{{convert|1300|mi|km}}`, `3 to 5 km`, `6 ft 2 in`, `10-mi-long` of adj=mid."""
    rest = positional(values)
    pieces: list[str] = []
    unit = ""
    while rest:
        number = rest.pop(0)
        pieces.append(number)
        if rest and rest[0].lower() in _RANGES:
            pieces.append(_RANGES[rest.pop(0).lower()])
            continue
        unit = rest.pop(0) if rest else ""
        if rest and unit and len(rest) > 1 and _is_number(rest[0]) and rest[1].lower() not in _RANGES:
            pieces.append(f" {_unit(unit)} ")  # feet and inches
            continue
        break
    adjective = values.get("adj", "").strip()
    extra = rest[-1] if rest and (adjective in ("mid", "pre") or "preunit" in values.get("disp", "")) else ""
    blank = "-" if adjective in ("on", "mid", "1") and unit.isalpha() else " "
    quantity = "".join(pieces)
    if adjective == "pre" or (extra and adjective != "mid"):
        quantity, extra = " ".join(filter(None, (quantity, extra))), ""
    symbol = _unit(unit)
    text = quantity + ("" if not symbol or symbol[0] in "/%" else blank) + symbol
    return text + (extra if extra.startswith("-") else f" {extra}" if extra else "")


def _is_number(text: str) -> bool:
    return any(map(str.isdecimal, text)) and not any(
        character.isalpha() and character not in "eE" for character in text
    )


def _unit(code: str) -> str:
    many = _MANY.match(code)
    code = code[many.end() :] if many else code
    shown = code if code == "st" else _UNITS.get(code.lower(), code)  # `st` are stones, `ST` short tons
    return (_MILLIONS[many[1]] if many else "") + _POWER.sub(lambda power: _POWERS[power[1]], shown)


def quantity(values: Values) -> str:
    """A number and its unit behind it, as `{{unité|12|km}}`; further values are exponents and units by turns."""
    number, *units = positional(values) or [""]
    shown = ""
    for unit in units:
        is_exponent = re.fullmatch(r"[+−-]?\d+", unit)
        shown += f"^{unit}" if is_exponent else f"{'⋅' if shown else ''}{unit}" if unit else ""
    power = values.get("e", "").strip()
    return " ".join(filter(None, (number + (f"×10^{power}" if power else ""), shown)))


def val(values: Values) -> str:
    """`1.23±0.05×10^6 m` of `{{val|1.23|0.05|e=6|u=m}}`."""
    number, *errors = positional(values) or [""]
    number = re.sub(r"[eE]([+−-]?\d+)$", r"×10^\1", number)
    power = values.get("e", "").strip()
    if len(errors) >= 2 and errors[1]:
        plus, minus = (error.lstrip("+−-") for error in errors[:2])
        number = f"{number} +{plus} −{minus}"
    elif errors and errors[0]:
        number += errors[0] if errors[0].startswith("(") else f"±{errors[0]}"
    if power:
        number = (f"({number})" if errors and errors[0] else number) + f"×10^{power}"
    prefix = values.get("p", values.get("pre", ""))
    unit = (values.get("u") or values.get("ul") or "").strip()
    per = (values.get("up") or values.get("upl") or "").strip()
    suffix = values.get("s", values.get("suf", ""))
    unit = _POWER.sub(lambda power: _POWERS[power[1]], unit + (f"/{per}" if per else ""))
    return f"{prefix}{number}{'' if unit[:1] in ('', '%', '°', '/') else ' '}{unit}{suffix}"


def fraction(values: Values) -> str:
    """`1 3/4`; one value is a denominator."""
    match positional(values):
        case [below]:
            return f"1/{below}" if below else ""
        case [above, below]:
            return f"{above}/{below}"
        case [whole, above, below, *_]:
            return f"{whole} {above}/{below}".strip()
    return "/"


def chemical(values: Values) -> str:
    """`SO4^2−` of `{{chem|SO|4|2−}}`."""
    parts = positional(values)
    return "".join(f"^{part}" if index and _CHARGE.fullmatch(part) else part for index, part in enumerate(parts))


def formula(values: Values) -> str:
    """`SO4^2−` of `{{chem2|SO4(2−)}}`."""
    text = "".join(positional(values))
    return re.sub(r"\((\d*[+−–-])\)", r"^\1", text.replace("_", "").replace("*", "⋅"))


def date(language: str, parts: list[str], day_first: bool = False) -> str:
    """A date of year, month and day, as the language's templates write it; words stay as they are."""
    numbers = [part for part in parts[:3] if part]
    if not numbers or not all(number.isdecimal() for number in numbers):
        return " ".join(filter(None, parts))
    year, month, day = [*map(int, numbers), 0, 0][:3]
    if language.startswith(("zh", "ja", "yue", "wuu")):
        return f"{year}年" + (f"{month}月" if month else "") + (f"{day}日" if day else "")
    if language == "ko":
        return f"{year}년" + (f" {month}월" if month else "") + (f" {day}일" if day else "")
    if language not in ("", "en", "simple") or not 0 < month <= 12:
        return "-".join(numbers)
    name = _MONTHS[month - 1]
    if not day:
        return f"{name} {year}"
    return f"{day} {name} {year}" if day_first else f"{name} {day}, {year}"


def is_day_first(values: Values) -> bool:
    """Whether a date is asked for as `2 January 1900`."""
    return values.get("df", "").strip().lower() in ("y", "yes", "dmy", "1", "true")


def age(birth: list[str], then: list[str]) -> str:
    """Full years between two dates; empty where they are not known."""
    try:
        first, last = ([*map(int, filter(None, parts[:3]))] for parts in (birth, then))
        years = last[0] - first[0]
        whole = len(first) == len(last) == 3
        return str(years - (last[1:] < first[1:])) if whole else f"{years - 1}–{years}"
    except (ValueError, IndexError):
        return ""
