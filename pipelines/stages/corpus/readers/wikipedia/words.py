"""What a reader sees of a template: functions of a call's values and of the wiki's language.

Sources: the documentation of the templates in English, French, German, Russian, Chinese and Japanese Wikipedia.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pipelines.stages.corpus.readers.wikipedia import names, quantities
from pipelines.stages.corpus.readers.wikipedia.quantities import Values, positional

Show = Callable[[Values, str], str]

SUPERSCRIPT = "\x05"  # around what the renderer raises, since how it does depends on what stands before
BLOCK = "\x06"  # an edge of a paragraph

_NAMED_CENTURY = re.compile(r"([ivxl]+)(er|e) siècle( av\. j\.-c\.)?")
_CODE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,8})*")


def first(values: Values, language: str) -> str:
    return values.get("1", "")


def last(values: Values, language: str) -> str:
    return next((value for value in reversed(positional(values)) if value), values.get("text", ""))


def unknown(values: Values) -> str:
    """The first value without a name, unless it is a language's code and another follows."""
    found = [value for value in positional(values) if value]
    if len(found) > 1 and _CODE.fullmatch(found[0]):
        return found[1]
    return found[0] if found else ""


def first_of(values: Values, *names: str) -> str:
    """The first of these values that is there."""
    return next((values[name].strip() for name in names if values.get(name, "").strip()), "")


def joined(separator: str) -> Show:
    return lambda values, language: separator.join(filter(None, positional(values)))


def framed(before: str, after: str = "") -> Show:
    def show(values: Values, language: str) -> str:
        text = values.get("1", "").strip()
        return f"{before}{text}{after}" if text else ""

    return show


def sign(text: str) -> Show:
    """What stands for the call alone; behind a word such as `no` or `Mme` its value stands, too."""
    is_word = any(map(str.isalpha, text))

    def show(values: Values, language: str) -> str:
        return " ".join(filter(None, (text, values.get("1", "").strip()))) if is_word else text

    return show


def labelled(values: Values, language: str) -> str:
    """`French: le fleuve`, as {{langx}} has it in English; other Wikipedias' labels are not known here."""
    parts = positional(values)
    code, text, *more = [*parts, *("", "")[len(parts) :]]
    text = text or values.get("text", "").strip()
    if not text and code.startswith("zh"):
        return chinese({**values, "1": ""}, language)
    label = names.LANGUAGES.get(code.partition("-")[0], "") if language in ("", "en", "simple") else ""
    label = "" if values.get("label", "").strip() == "none" else values.get("label", "").strip() or label
    roman = values.get("translit", "").strip() or (more[0] if more else "")
    meaning = values.get("lit", values.get("translation", "")).strip() or (more[1] if len(more) > 1 else "")
    shown = (
        f"{label}: {text}" if label and text else text,
        roman and f"romanized: {roman}",
        meaning and f"lit. '{meaning}'",
    )
    return ", ".join(filter(None, shown))


def nihongo(values: Values, language: str) -> str:
    """`English (日本語, romaji)`."""
    english, kanji, romaji, extra, *more = [*positional(values), "", "", "", ""][:5]
    inside = ", ".join(filter(None, (kanji, romaji, extra or values.get("extra", ""))))
    return " ".join(filter(None, (english, f"({inside})" if inside and english else inside, *more)))


def nihongo3(values: Values, language: str) -> str:
    english, kanji, romaji = [*positional(values), "", "", ""][:3]
    return nihongo({"1": romaji, "2": kanji, "3": english}, language)


def chinese(values: Values, language: str) -> str:
    """{{zh|s=..|t=..|p=..}}."""
    labels = {"c": "Chinese", "s": "simplified Chinese", "t": "traditional Chinese", "p": "pinyin", "w": "Wade–Giles",
              "j": "Jyutping", "cy": "Cantonese Yale", "l": "lit.", "hangul": "Korean", "hanja": "Hanja", "rr": "RR",
              "mr": "MR"}  # fmt: skip
    is_bare = values.get("labels", "").strip() == "no"
    shown = [
        values[name].strip() if is_bare else f"{label}: {values[name].strip()}"
        for name, label in labels.items()
        if values.get(name, "").strip()
    ]
    return "; ".join(filter(None, [*positional(values)[:1], *shown]))


def quote(values: Values, language: str) -> str:
    """A paragraph of its own, and below it who said it."""
    text = first_of(values, "1", "text", "quote", "quotetext", "texte", "texto", "testo", "content", "lines", "цитата")
    author = first_of(values, "author", "sign", "by", "character", "2", "auteur", "autor", "autore", "4")
    work = first_of(values, "title", "source", "3", "quelle", "fuente", "fonte", "5")
    by = ", ".join(filter(None, (author, work)))
    return f"{BLOCK}{text}{BLOCK}" + (f"— {by}{BLOCK}" if by else "") if text else ""


def block(values: Values, language: str) -> str:
    text = values.get("1", values.get("text", ""))
    return f"{BLOCK}{text}{BLOCK}" if text.strip() else ""


def lines(values: Values, language: str) -> str:
    """Each value in a line; one that holds a list already stays as it is."""
    items = [item for item in positional(values) if item]
    return BLOCK + BLOCK.join(items) + BLOCK if items else ""


def as_of(values: Values, language: str) -> str:
    if alternative := values.get("alt", "").strip():
        return alternative
    when = quantities.date(language, positional(values)[:3], values.get("df", "").strip().lower() != "us")
    if not when:
        return ""
    before = "since" if values.get("since", "").strip() else "as of"
    if values.get("bare", "").strip():
        return when
    return f"{before if values.get('lc', '').strip() else before.capitalize()} {when}" + values.get("post", "")


def circa(values: Values, language: str) -> str:
    return " – ".join(f"c. {year}" for year in positional(values) if year) or "c."


def date(values: Values, language: str) -> str:
    return quantities.date(language, positional(values), quantities.is_day_first(values))


def date_and_time(values: Values, language: str) -> str:
    return quantities.date(language, positional(values)[:3], quantities.is_day_first(values))


def death_date_and_age(values: Values, language: str) -> str:
    parts = positional(values)
    died, born = (parts[:3], parts[3:6]) if len(parts) > 2 else (parts[:1], parts[1:2])
    years = quantities.age(born, died)
    shown = quantities.date(language, died, quantities.is_day_first(values))
    return f"{shown} (aged {years})" if years and language in ("", "en", "simple") else shown


def age(values: Values, language: str) -> str:
    parts = positional(values)
    return quantities.age(parts[:3], parts[3:6])


def link_elsewhere(values: Values, language: str) -> str:
    """{{ill|Name|de|Name auf Deutsch|lt=shown}}; it has been written with the language first, too."""
    if shown := first_of(values, "lt", "text", "display", "label", "texte", "d"):
        return shown
    parts = positional(values)
    if len(parts) > 2 and _CODE.fullmatch(parts[0]):
        return parts[3] if len(parts) > 3 and parts[3] else parts[1] or parts[2]
    return parts[0] if parts and parts[0] else first_of(values, "fr", "trad")


def link_and_label(values: Values, language: str) -> str:
    """{{link-en|条目|Article|显示}}: the third value is shown where it is there."""
    parts = [*positional(values), "", "", ""]
    return values.get("d", "").strip() or parts[2] or parts[0]


def ship(name: str) -> Show:
    def show(values: Values, language: str) -> str:
        ship, number, form = [*positional(values), "", "", ""][:3]
        return f"{name.upper()} {ship}" + (f" ({number})" if number and not form else "")

    return show


def any_ship(values: Values, language: str) -> str:
    """{{ship|HMS|Victory|1765|2}}: prefix, name, number or year; a form says which of them are shown."""
    prefix, ship, number, form = [*positional(values), "", "", "", ""][:4]
    named = " ".join(filter(None, (prefix, ship)))
    return f"{named} ({number})" if number and not form else named


def named_century(name: str) -> str:
    """French: {{XXe siècle}}, {{IIe siècle av. J.-C.}}, which have no values; empty for another name."""
    found = _NAMED_CENTURY.fullmatch(name)
    if found is None:
        return ""
    return f"{found[1].upper()}{found[2]} siècle" + (" av. J.-C." if found[3] else "")


def century(values: Values, language: str) -> str:
    """French: {{s|XIX|e}}; Russian has a template of that name that keeps words in a line."""
    numeral, *more = positional(values) or [""]
    return f"{numeral}{more[0]} siècle" if more and language in ("", "fr") else numeral


def centuries(values: Values, language: str) -> str:
    first, ending, last, other = [*positional(values), "", "", "", ""][:4]
    return f"{first}{ending} – {last}{other} siècles"


def power_of_ten(values: Values, language: str) -> str:
    power = values.get("1", "").strip()
    if language == "fr":  # there what is raised, the ending of an ordinal if nothing is said
        return f"{SUPERSCRIPT}{power}{SUPERSCRIPT}" if power else "e"
    return f"×10^{power}" if power else ""


def money(sign: str) -> Show:
    def show(values: Values, language: str) -> str:
        amount = values.get("1", "").strip()
        return f"{sign}{amount}" if any(map(str.isdecimal, amount)) else ""

    return show


def currency(values: Values, language: str) -> str:
    amount, code = [*positional(values), "", ""][:2]
    return f"{names.CURRENCIES.get(code.lower(), f'{code} ' if code else '')}{amount}"


def if_then(values: Values, language: str) -> str:
    return values.get("2" if values.get("1", "").strip() else "3", "").strip()


def if_equal(values: Values, language: str) -> str:
    return values.get("3" if values.get("1", "").strip() == values.get("2", "").strip() else "4", "").strip()


def plural(values: Values, language: str) -> str:
    parts = positional(values)
    return parts[1] if len(parts) == 2 or (parts and parts[0] == "1") else (parts[2] if len(parts) > 2 else "")


def sub_and_sup(values: Values, language: str) -> str:
    below, above = values.get("b", "").strip(), values.get("p", "").strip()
    return (f"_{below}" if below else "") + (f"^{above}" if above else "")


def ruby(values: Values, language: str) -> str:
    base, above = [*positional(values), "", ""][:2]
    return f"{base} ({above})" if above else base


def sic(values: Values, language: str) -> str:
    text = "".join(positional(values))
    return text if values.get("hide", "").strip() else f"{text} [sic]".strip()


def translated(values: Values, language: str) -> str:
    """Russian: {{нп5|Статья|показанное|en|Article}}."""
    parts = [*positional(values), "", ""]
    return parts[1] or parts[0] or values.get("надо", "").strip()


def ordinal(number: str) -> str:
    ending = "th" if number[-2:] in ("11", "12", "13") else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1:], "th")
    return f"{number}{ending}" if number.isdecimal() else number


def of_values(function: Callable[[Values], str]) -> Show:
    return lambda values, language: function(values)


def measures(values: Values, language: str) -> str:
    units = ("m", "cm", "ft", "in", "kg", "st", "lb")
    return " ".join(f"{values[unit].strip()} {unit}" for unit in units if values.get(unit, "").strip())
