"""Templates of MediaWiki that stand for words of the running text, and what a reader sees of them.

A dump has the calls of templates, not their definitions, so the common ones of the large Wikipedias are written down
here by name. What is not known counts as text where it stands inside a line and has a value without a name; boxes,
navigation, maintenance and citations stand alone, have names alone, or are listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pipelines.corpus.readers import wikitext_names as names
from pipelines.corpus.readers import wikitext_quantities as quantities
from pipelines.corpus.readers.wikitext_quantities import Values, positional

BLOCK = "\x06"  # an edge of a paragraph
SUPERSCRIPT = "\x05"  # around what the renderer raises, since how it does depends on what stands before

_MAX_NAME_CHARACTERS = 100
_MAX_UNKNOWN_CHARACTERS = 500
_PREFIX = re.compile(r"(?:template|vorlage|modèle|plantilla|predefinição|шаблон|模板|t|subst|safesubst|msgnw)\s*:\s*")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_LANG = re.compile(r"lang-([a-z]{2,3}(?:-[a-z]+)*)\d?")
_IDENTIFIER = re.compile(r"[A-Z]{1,4}\d{3,}[A-Z]?|[!-~]*[/_][!-~]*")  # of a record elsewhere
_CODE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,8})*")
_SHIPS = "uss  hms  hmas  hmcs  hmnzs  ss  ms  mv  rms  mt  sms  rv  usns  uscgc"


def name_of(call: str) -> str:
    """The name of a template as the tables have it, from what stands before its first value."""
    name = _COMMENT.sub("", call).replace("_", " ").strip().lower()
    name = " ".join(_PREFIX.sub("", name).split())
    function, colon, _ = name.partition(":")
    return f"{function}:" if colon and f"{function}:" in _TEXTS else name


def is_text(markup: str, start: int, end: int) -> bool:
    """Whether a call of a template, `{{` to `}}` at [start, end), stands for words of the text."""
    stop = min(end - 2, start + 2 + _MAX_NAME_CHARACTERS)
    bar = markup.find("|", start, stop)
    name = name_of(markup[start + 2 : stop if bar < 0 else bar])
    if name.startswith("{") or "{{{" in markup[start + 2 : min(end, start + _MAX_UNKNOWN_CHARACTERS)]:
        return False  # a parameter, whose value only a template's page knows
    if name in _TEXTS or _LANG.fullmatch(name):
        return True
    if (
        bar < 0
        or end - start > _MAX_UNKNOWN_CHARACTERS
        or name in names.DROPPED
        or name.startswith(names.DROPPED_BEGINNINGS)
    ):
        return False
    return _is_inside_line(markup, start, end) and _is_words(markup[bar + 1 : end - 2])


def _is_inside_line(markup: str, start: int, end: int) -> bool:
    """Whether text stands before or behind a call, in its line and next to it."""
    before = markup[max(0, start - 3) : start].rstrip(" \t")[-1:]
    after = markup[end : end + 3].lstrip(" \t")[:1]
    return bool(before and before not in "\n|*#:;={}>") or after.isalnum() or after in tuple(",.;:)")


def _is_words(values: str) -> bool:
    """Whether one of the values has no name, and letters; an address or identifier of the web is no text."""
    first = next((value for value in values.split("|") if "=" not in value.partition("[")[0]), "")
    is_word = any(map(str.isalpha, first)) and not _IDENTIFIER.fullmatch(first.strip())
    return is_word and "\n" not in values and "://" not in values


def text_of(name: str, values: Values, language: str) -> str:
    """What a reader of the wiki of that language sees of a call."""
    if found := _TEXTS.get(name):
        return found(values, language)
    if labelled := _LANG.fullmatch(name):
        return _labelled({"1": labelled[1], **{str(i + 2): v for i, v in enumerate(positional(values))}}, language)
    return _unknown(values)


def _first(values: Values, language: str) -> str:
    return values.get("1", "")


def _last(values: Values, language: str) -> str:
    return next((value for value in reversed(positional(values)) if value), values.get("text", ""))


def _unknown(values: Values) -> str:
    """The first value without a name, unless it is a language's code and another follows."""
    found = [value for value in positional(values) if value]
    if len(found) > 1 and _CODE.fullmatch(found[0]):
        return found[1]
    return found[0] if found else ""


def _first_of(values: Values, *names: str) -> str:
    """The first of these values that is there."""
    return next((values[name].strip() for name in names if values.get(name, "").strip()), "")


def _joined(separator: str) -> Callable[[Values, str], str]:
    return lambda values, language: separator.join(filter(None, positional(values)))


def _framed(before: str, after: str = "") -> Callable[[Values, str], str]:
    def show(values: Values, language: str) -> str:
        text = values.get("1", "").strip()
        return f"{before}{text}{after}" if text else ""

    return show


def _sign(text: str) -> Callable[[Values, str], str]:
    return lambda values, language: text


def _labelled(values: Values, language: str) -> str:
    """`French: le fleuve`, as {{langx}} has it in English; other Wikipedias' labels are not known here."""
    parts = positional(values)
    code, text, *more = [*parts, ""] if len(parts) < 2 else parts
    text = text or values.get("text", "").strip()
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


def _nihongo(values: Values, language: str) -> str:
    """`English (日本語, romaji)`."""
    english, kanji, romaji, extra, *more = [*positional(values), "", "", "", ""][:5]
    inside = ", ".join(filter(None, (kanji, romaji, extra or values.get("extra", ""))))
    return " ".join(filter(None, (english, f"({inside})" if inside and english else inside, *more)))


def _nihongo3(values: Values, language: str) -> str:
    english, kanji, romaji = [*positional(values), "", "", ""][:3]
    return _nihongo({"1": romaji, "2": kanji, "3": english}, language)


def _chinese(values: Values, language: str) -> str:
    """{{zh|s=..|t=..|p=..}}."""
    labels = {"c": "Chinese", "s": "simplified Chinese", "t": "traditional Chinese", "p": "pinyin", "w": "Wade–Giles",
              "j": "Jyutping", "cy": "Cantonese Yale", "l": "lit.", "hangul": "Korean", "hanja": "Hanja", "rr": "RR",
              "mr": "MR"}  # fmt: skip
    shown = [f"{label}: {values[name].strip()}" for name, label in labels.items() if values.get(name, "").strip()]
    return "; ".join(filter(None, [*positional(values)[:1], *shown]))


def _quote(values: Values, language: str) -> str:
    """A paragraph of its own, and below it who said it."""
    text = _first_of(values, "1", "text", "quote", "quotetext", "texte", "texto", "testo", "content", "lines", "цитата")
    author = _first_of(values, "author", "sign", "by", "character", "2", "auteur", "autor", "autore", "4")
    work = _first_of(values, "title", "source", "3", "quelle", "fuente", "fonte", "5")
    by = ", ".join(filter(None, (author, work)))
    return f"{BLOCK}{text}{BLOCK}" + (f"— {by}{BLOCK}" if by else "") if text else ""


def _block(values: Values, language: str) -> str:
    text = values.get("1", values.get("text", ""))
    return f"{BLOCK}{text}{BLOCK}" if text.strip() else ""


def _list(values: Values, language: str) -> str:
    """Each value in a line; one that holds a list already stays as it is."""
    items = [item for item in positional(values) if item]
    return BLOCK + BLOCK.join(items) + BLOCK if items else ""


def _as_of(values: Values, language: str) -> str:
    if alternative := values.get("alt", "").strip():
        return alternative
    when = quantities.date(language, positional(values)[:3], values.get("df", "").strip().lower() != "us")
    before = "since" if values.get("since", "").strip() else "as of"
    if values.get("bare", "").strip():
        return when
    return f"{before if values.get('lc', '').strip() else before.capitalize()} {when}" + values.get("post", "")


def _circa(values: Values, language: str) -> str:
    return " – ".join(f"c. {year}" for year in positional(values) if year) or "c."


def _date(values: Values, language: str) -> str:
    return quantities.date(language, positional(values), quantities.is_day_first(values))


def _date_and_time(values: Values, language: str) -> str:
    return quantities.date(language, positional(values)[:3], quantities.is_day_first(values))


def _death_date_and_age(values: Values, language: str) -> str:
    parts = positional(values)
    died, born = (parts[:3], parts[3:6]) if len(parts) > 2 else (parts[:1], parts[1:2])
    years = quantities.age(born, died)
    shown = quantities.date(language, died, quantities.is_day_first(values))
    return f"{shown} (aged {years})" if years and language in ("", "en", "simple") else shown


def _age(values: Values, language: str) -> str:
    parts = positional(values)
    return quantities.age(parts[:3], parts[3:6])


def _link_elsewhere(values: Values, language: str) -> str:
    """{{ill|Name|de|Name auf Deutsch|lt=shown}}; it has been written with the language first, too."""
    if shown := _first_of(values, "lt", "text", "display", "label", "texte", "d"):
        return shown
    parts = positional(values)
    if len(parts) > 2 and _CODE.fullmatch(parts[0]):
        return parts[3] if len(parts) > 3 and parts[3] else parts[1] or parts[2]
    return parts[0] if parts else ""


def _link_and_label(values: Values, language: str) -> str:
    """{{link-en|条目|Article|显示}}: the third value is shown where it is there."""
    parts = [*positional(values), "", "", ""]
    return values.get("d", "").strip() or parts[2] or parts[0]


def _ship(name: str) -> Callable[[Values, str], str]:
    def show(values: Values, language: str) -> str:
        ship, number, form = [*positional(values), "", "", ""][:3]
        return f"{name.upper()} {ship}" + (f" ({number})" if number and not form else "")

    return show


def _century(values: Values, language: str) -> str:
    """French: {{s|XIX|e}}; Russian has a template of that name that keeps words in a line."""
    numeral, *more = positional(values) or [""]
    return f"{numeral}{more[0]} siècle" if more and language in ("", "fr") else numeral


def _centuries(values: Values, language: str) -> str:
    first, ending, last, other = [*positional(values), "", "", "", ""][:4]
    return f"{first}{ending} – {last}{other} siècles"


def _power_of_ten(values: Values, language: str) -> str:
    power = values.get("1", "").strip()
    return f"×10^{power}" if power else "e" if language == "fr" else ""  # there the ending of an ordinal


def _money(sign: str) -> Callable[[Values, str], str]:
    def show(values: Values, language: str) -> str:
        amount = values.get("1", "").strip()
        return f"{sign}{amount}" if any(map(str.isdecimal, amount)) else ""

    return show


def _if(values: Values, language: str) -> str:
    return values.get("2" if values.get("1", "").strip() else "3", "").strip()


def _if_equal(values: Values, language: str) -> str:
    return values.get("3" if values.get("1", "").strip() == values.get("2", "").strip() else "4", "").strip()


def _plural(values: Values, language: str) -> str:
    parts = positional(values)
    return parts[1] if len(parts) == 2 or (parts and parts[0] == "1") else (parts[2] if len(parts) > 2 else "")


def _sub_and_sup(values: Values, language: str) -> str:
    below, above = values.get("b", "").strip(), values.get("p", "").strip()
    return (f"_{below}" if below else "") + (f"^{above}" if above else "")


def _ruby(values: Values, language: str) -> str:
    base, above = [*positional(values), "", ""][:2]
    return f"{base} ({above})" if above else base


def _sic(values: Values, language: str) -> str:
    text = "".join(positional(values))
    return text if values.get("hide", "").strip() else f"{text} [sic]".strip()


def _translated(values: Values, language: str) -> str:
    """Russian: {{нп5|Статья|показанное|en|Article}}."""
    parts = [*positional(values), "", ""]
    return parts[1] or parts[0] or values.get("надо", "").strip()


def _ordinal(number: str) -> str:
    ending = "th" if number[-2:] in ("11", "12", "13") else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1:], "th")
    return f"{number}{ending}" if number.isdecimal() else number


def _of_values(function: Callable[[Values], str]) -> Callable[[Values, str], str]:
    return lambda values, language: function(values)


def _measures(values: Values, language: str) -> str:
    units = ("m", "cm", "ft", "in", "kg", "st", "lb")
    return " ".join(f"{values[unit].strip()} {unit}" for unit in units if values.get(unit, "").strip())


def _named_in(text: str, show: Callable[[Values, str], str]) -> dict[str, Callable[[Values, str], str]]:
    """An entry for each name."""
    return dict.fromkeys(names.listed(text), show)


_TEXTS: Mapping[str, Callable[[Values, str], str]] = {
    **{name: _ship(name) for name in names.listed(_SHIPS)},
    **{name: _money(sign) for name, sign in names.CURRENCIES.items()},
    **{name: _sign(sign) for name, sign in names.SIGNS.items()},
    **_named_in(names.PASSED, _first),
    **_named_in(names.LAST, _last),
    **_named_in(names.JOINED, _joined("")),
    **_named_in("gaps", _joined(" ")),
    **_named_in(names.BLOCKS, _block),
    **_named_in(names.LISTS, _list),
    **_named_in(names.INLINE_LISTS, _joined(" · ")),
    **_named_in(names.COMMA_LISTS, _joined(", ")),
    **_named_in(names.QUOTES, _quote),
    **_named_in(names.CONVERT, _of_values(quantities.convert)),
    **_named_in(names.QUANTITY, _of_values(quantities.quantity)),
    **_named_in(names.FRACTIONS, _of_values(quantities.fraction)),
    **_named_in(names.DATES, _date),
    **_named_in(names.DEATHS, _death_date_and_age),
    **_named_in(names.ELSEWHERE, _link_elsewhere),
    **_named_in(names.LINK_AND_LABEL, _link_and_label),
    **_named_in(names.SUBSCRIPT, _first),
    **_named_in(names.SUPERSCRIPT, lambda values, language: SUPERSCRIPT + values.get("1", "") + SUPERSCRIPT),
    "val": _of_values(quantities.val),
    "chem": _of_values(quantities.chemical),
    "chem2": _of_values(quantities.formula),
    "height": _measures,
    "weight": _measures,
    "langx": _labelled,
    "lang-x": _labelled,
    "nihongo": _nihongo,
    "nihongo krt": _nihongo3,
    "nihongo3": _nihongo3,
    "zh": _chinese,
    "as of": _as_of,
    "since": _as_of,
    "circa": _circa,
    "c.": _circa,
    "ca": _circa,
    "ca.": _circa,
    "approx": _circa,
    "floruit": _framed("fl. "),
    "fl.": _framed("fl. "),
    "reign": lambda values, language: "r. " + "–".join(filter(None, positional(values))),
    "age": _age,
    "born-in": _framed("born in "),
    "e": _power_of_ten,
    "esp10": _power_of_ten,
    "10^": _framed("10^"),
    "x10^": _framed("×10^"),
    "su": _sub_and_sup,
    "sup sub": lambda values, language: _sub_and_sup({"p": values.get("1", ""), "b": values.get("2", "")}, language),
    "sub sup": lambda values, language: _sub_and_sup({"b": values.get("1", ""), "p": values.get("2", "")}, language),
    "sqrt": _framed("√"),
    "radic": _framed("√"),
    "abs": _framed("|", "|"),
    "mset": _framed("{", "}"),
    "ket": _framed("|", "⟩"),
    "bra": _framed("⟨", "|"),
    "bra-ket": lambda values, language: f"⟨{'|'.join(positional(values))}⟩",
    "angbr": _framed("⟨", "⟩"),
    "angle bracket": _framed("⟨", "⟩"),
    "tmath": _framed("$", "$"),
    "nuclide": _joined("-"),
    "simplenuclide": _joined("-"),
    "ruby": _ruby,
    "ruby-ja": _ruby,
    "読み仮名": _ruby,
    "ルビ": _ruby,
    "sic": _sic,
    "lit": _framed("lit. '", "'"),
    "literal translation": _framed("lit. '", "'"),
    "gloss": _framed("'", "'"),
    "translation": _framed("transl. ", ""),
    "key press": _joined("+"),
    "keypress": _joined("+"),
    "sclass": lambda values, language: "-class ".join(positional(values)[:2]),
    "sclass-": lambda values, language: "-class ".join(positional(values)[:2]),
    "sclass2-": lambda values, language: "-class ".join(positional(values)[:2]),
    "sortname": lambda values, language: " ".join(positional(values)[:2]),
    "ordinal": lambda values, language: _ordinal(values.get("1", "").strip()),
    "ord": _joined(""),
    "no.": _framed("No. "),
    "höhe": _framed("", " m"),
    "bibel": lambda values, language: " ".join([*positional(values)[:1], ",".join(positional(values)[1:3])]),
    "s": _century,
    "s mini": _century,
    "-s": lambda values, language: f"{_century(values, 'fr')} av. J.-C.",
    "-s-": lambda values, language: f"{_century(values, 'fr')} av. J.-C.",
    "sp": lambda values, language: (
        " – ".join(map("".join, zip(*[iter(positional(values)[:4])] * 2, strict=False))) + " siècles"
    ),
    "siglo": lambda values, language: f"siglo {values.get('1', '').strip()}",
    "séc": lambda values, language: f"século {values.get('1', '').strip()}",
    "incise": _framed("– ", " –"),
    "guil": _framed("« ", " »"),
    "citation": lambda values, language: f"« {values['1'].strip()} »" if "1" in values else "",  # in French a quotation
    "music": lambda values, language: {"sharp": "♯", "#": "♯", "flat": "♭", "b": "♭"}.get(values.get("1", ""), "♮"),
    "bd": lambda values, language: f"（{''.join(positional(values)[:2])}－{''.join(positional(values)[2:4])}）",
    "tsl": lambda values, language: next((part for part in reversed(positional(values)[1:4]) if part), ""),
    **dict.fromkeys(("нп", "нп2", "нп3", "нп4", "нп5", "не переведено", "не переведено 5", "iw5"), _translated),
    "co2": _sign("CO2"),
    "#if:": _if,
    "#ifeq:": _if_equal,
    "formatnum:": _first,
    "plural:": _plural,
    "lc:": lambda values, language: values.get("1", "").lower(),
    "uc:": lambda values, language: values.get("1", "").upper(),
    "lcfirst:": lambda values, language: values.get("1", "")[:1].lower() + values.get("1", "")[1:],
    "ucfirst:": lambda values, language: values.get("1", "")[:1].upper() + values.get("1", "")[1:],
}
