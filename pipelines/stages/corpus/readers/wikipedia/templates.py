"""Templates of MediaWiki that stand for words of the running text, and what a reader sees of them.

A dump has the calls of templates, not their definitions, so the common ones of the large Wikipedias are written down
here by name. What is not known counts as text where it stands inside a line and has a value without a name; boxes,
navigation, maintenance and citations stand alone, have names alone, or are listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipelines.stages.corpus.readers.wikipedia import names, quantities, words
from pipelines.stages.corpus.readers.wikipedia.quantities import Values, positional
from pipelines.stages.corpus.readers.wikipedia.words import SUPERSCRIPT, Show

_MAX_NAME_CHARACTERS = 100
_MAX_UNKNOWN_CHARACTERS = 500
_PREFIX = re.compile(
    r"\A(?:(?:safesubst|subst|msgnw|template|t|vorlage|modèle|plantilla|predefinição|шаблон|模板|テンプレート|틀)\s*:\s*)+"
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_LANG = re.compile(r"lang-([a-z]{2,3}(?:-[a-z]+)*)\d?")
_IDENTIFIER = re.compile(r"[A-Z]{1,4}\d{3,}[A-Z]?|[!-~]*[/_][!-~]*")  # of a record elsewhere
_SHIPS = "uss  hms  hmas  hmcs  hmnzs  ss  ms  mv  rms  mt  sms  rv  usns  uscgc"


def name_of(call: str) -> str:
    """The name of a template as the tables have it, from what stands before its first value."""
    name = _COMMENT.sub("", call).replace("_", " ").strip().lower()
    name = " ".join(_PREFIX.sub("", name).split())
    function, colon, _ = name.partition(":")
    return f"{function}:" if colon and f"{function}:" in TEXTS else name


def is_text(markup: str, start: int, end: int) -> bool:
    """Whether a call of a template, `{{` to `}}` at [start, end), stands for words of the text."""
    stop = min(end - 2, start + 2 + _MAX_NAME_CHARACTERS)
    bar = markup.find("|", start, stop)
    name = name_of(markup[start + 2 : stop if bar < 0 else bar])
    if name.startswith("{") or "{{{" in markup[start + 2 : min(end, start + _MAX_UNKNOWN_CHARACTERS)]:
        return False  # a parameter, whose value only a template's page knows
    if name in TEXTS or _LANG.fullmatch(name) or words.named_century(name):
        return True
    if (
        bar < 0
        or end - start > _MAX_UNKNOWN_CHARACTERS
        or name in names.DROPPED
        or name.startswith(names.DROPPED_BEGINNINGS)
        or name.endswith(" inline")
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
    if found := TEXTS.get(name):
        return found(values, language)
    if labelled := _LANG.fullmatch(name):
        behind = {str(int(key) + 1) if key.isdecimal() else key: value for key, value in values.items()}
        return words.labelled({**behind, "1": labelled[1]}, language)
    return words.named_century(name) or words.unknown(values)


def _named_in(text: str, show: Show) -> dict[str, Show]:
    """An entry for each name."""
    return dict.fromkeys(names.listed(text), show)


TEXTS: Mapping[str, Show] = {
    **{name: words.ship(name) for name in names.listed(_SHIPS)},
    **{name: words.money(sign) for name, sign in names.CURRENCIES.items()},
    **{name: words.sign(sign) for name, sign in names.SIGNS.items()},
    **_named_in(names.PASSED, words.first),
    **_named_in(names.LAST, words.last),
    **_named_in(names.JOINED, words.joined("")),
    **_named_in("gaps", words.joined(" ")),
    **_named_in(names.BLOCKS, words.block),
    **_named_in(names.LISTS, words.lines),
    **_named_in(names.INLINE_LISTS, words.joined(" · ")),
    **_named_in(names.COMMA_LISTS, words.joined(", ")),
    **_named_in(names.QUOTES, words.quote),
    **_named_in(names.CONVERT, words.of_values(quantities.convert)),
    **_named_in(names.QUANTITY, words.of_values(quantities.quantity)),
    **_named_in(names.FRACTIONS, words.of_values(quantities.fraction)),
    **_named_in(names.DATES, words.date),
    **_named_in(names.DEATHS, words.death_date_and_age),
    **_named_in(names.ELSEWHERE, words.link_elsewhere),
    **_named_in(names.LINK_AND_LABEL, words.link_and_label),
    **_named_in(names.SUBSCRIPT, words.first),
    **_named_in(names.SUPERSCRIPT, lambda values, language: SUPERSCRIPT + values.get("1", "") + SUPERSCRIPT),
    "val": words.of_values(quantities.val),
    "chem": words.of_values(quantities.chemical),
    "chem2": words.of_values(quantities.formula),
    "ship": words.any_ship,
    "height": words.measures,
    "weight": words.measures,
    "currency": words.currency,
    "korean": words.chinese,
    "langx": words.labelled,
    "lang-x": words.labelled,
    "nihongo": words.nihongo,
    "nihongo krt": words.nihongo3,
    "nihongo3": words.nihongo3,
    "zh": words.chinese,
    "as of": words.as_of,
    "since": words.as_of,
    "circa": words.circa,
    "c.": words.circa,
    "ca": words.circa,
    "ca.": words.circa,
    "approx": words.circa,
    "floruit": words.framed("fl. "),
    "fl.": words.framed("fl. "),
    "reign": lambda values, language: "r. " + "–".join(filter(None, positional(values))),
    "age": words.age,
    "born-in": words.framed("born in "),
    "e": words.power_of_ten,
    "esp10": words.power_of_ten,
    "10^": words.framed("10^"),
    "x10^": words.framed("×10^"),
    "su": words.sub_and_sup,
    "sup sub": lambda values, language: words.sub_and_sup(
        {"p": values.get("1", ""), "b": values.get("2", "")}, language
    ),
    "sub sup": lambda values, language: words.sub_and_sup(
        {"b": values.get("1", ""), "p": values.get("2", "")}, language
    ),
    "sqrt": words.framed("√"),
    "radic": words.framed("√"),
    "abs": words.framed("|", "|"),
    "mset": words.framed("{", "}"),
    "ket": words.framed("|", "⟩"),
    "bra": words.framed("⟨", "|"),
    "bra-ket": lambda values, language: f"⟨{'|'.join(positional(values))}⟩",
    "angbr": words.framed("⟨", "⟩"),
    "angle bracket": words.framed("⟨", "⟩"),
    "tmath": words.framed("$", "$"),
    "nuclide": words.joined("-"),
    "simplenuclide": words.joined("-"),
    "ruby": words.ruby,
    "ruby-ja": words.ruby,
    "読み仮名": words.ruby,
    "ルビ": words.ruby,
    "要出典": lambda values, language: values.get("範囲", ""),
    "sic": words.sic,
    "lit": words.framed("lit. '", "'"),
    "literal translation": words.framed("lit. '", "'"),
    "gloss": words.framed("'", "'"),
    "translation": words.framed("transl. ", ""),
    "key press": words.joined("+"),
    "keypress": words.joined("+"),
    "sclass": lambda values, language: "-class ".join(positional(values)[:2]),
    "sclass-": lambda values, language: "-class ".join(positional(values)[:2]),
    "sclass2-": lambda values, language: "-class ".join(positional(values)[:2]),
    "sortname": lambda values, language: " ".join(positional(values)[:2]),
    "ordinal": lambda values, language: words.ordinal(values.get("1", "").strip()),
    "ord": words.joined(""),
    "no.": words.framed("No. "),
    "höhe": words.framed("", " m"),
    "bibel": lambda values, language: " ".join([*positional(values)[:1], ",".join(positional(values)[1:3])]),
    "s": words.century,
    "s mini": words.century,
    "-s": lambda values, language: f"{words.century(values, 'fr')} av. J.-C.",
    "-s-": lambda values, language: f"{words.century(values, 'fr')} av. J.-C.",
    "sp": lambda values, language: (
        " – ".join(map("".join, zip(*[iter(positional(values)[:4])] * 2, strict=False))) + " siècles"
    ),
    "siglo": lambda values, language: f"siglo {values.get('1', '').strip()}",
    "séc": lambda values, language: f"século {values.get('1', '').strip()}",
    "incise": words.framed("– ", " –"),
    "guil": words.framed("« ", " »"),
    "citation": lambda values, language: f"« {values['1'].strip()} »" if "1" in values else "",  # in French a quotation
    "music": lambda values, language: {"sharp": "♯", "#": "♯", "flat": "♭", "b": "♭"}.get(values.get("1", ""), "♮"),
    "bd": lambda values, language: f"（{''.join(positional(values)[:2])}－{''.join(positional(values)[2:4])}）",
    "tsl": lambda values, language: next((part for part in reversed(positional(values)[1:4]) if part), ""),
    **dict.fromkeys(("нп", "нп2", "нп3", "нп4", "нп5", "не переведено", "не переведено 5", "iw5"), words.translated),
    "co2": words.sign("CO2"),
    "#if:": words.if_then,
    "#ifeq:": words.if_equal,
    "formatnum:": words.first,
    "plural:": words.plural,
    "lc:": lambda values, language: values.get("1", "").lower(),
    "uc:": lambda values, language: values.get("1", "").upper(),
    "lcfirst:": lambda values, language: values.get("1", "")[:1].lower() + values.get("1", "")[1:],
    "ucfirst:": lambda values, language: values.get("1", "")[:1].upper() + values.get("1", "")[1:],
}
