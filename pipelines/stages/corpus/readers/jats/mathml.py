"""MathML as one line of readable text: `x_i^2`, `(a + b)/c`, `√(x)`. Presentation elements as of MathML 3.

What is stacked is written with `_`, `^` and `/`, in parentheses where it is longer than one item. An accent becomes a
combining character or, over more than one, a name: `bar(x_i)`. Annotations and invisible operators are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

SPACED = frozenset("=≠<>≤≥≪≫≈≃≅≡∼∝±∓×÷∈∉⊂⊆∪∩∧∨→←↔⇒⇔⟶:≔∣") | {"+", "-", "−", "<=", ">=", ":=", "==", "!="}
SIGNS = frozenset("+-−±∓")  # before their operand, no blank
INVISIBLE = {"\u2061": " ", "\u2062": "", "\u2063": "", "\u2064": "", "\u200b": ""}
ACCENTS = {
    **dict.fromkeys("^ˆ\u0302", ("\u0302", "hat")),
    **dict.fromkeys("~˜\u0303", ("\u0303", "tilde")),
    **dict.fromkeys("¯‾ˉ_\u0304", ("\u0304", "bar")),
    **dict.fromkeys(".˙\u0307", ("\u0307", "dot")),
    **dict.fromkeys("¨\u0308", ("\u0308", "ddot")),
    **dict.fromkeys("→⃗", ("\u20d7", "vec")),
}
# What a script may belong to as a whole, so that what follows is no part of the script: `∑_(i = 1)^n x_i`.
OPERATORS = frozenset("∑∏∐∫∬∭∮∯∰⋀⋁⋂⋃⨀⨁⨂⨄⨆")
FUNCTIONS = frozenset(
    (
        *("arg", "argmax", "argmin", "lim", "liminf", "limsup", "inf", "sup", "min", "max", "exp", "lg", "ln", "log"),
        *("cos", "cosh", "cot", "coth", "csc", "sec", "sin", "sinh", "tan", "tanh", "det", "dim", "gcd", "ker", "Pr"),
    )
)
CLOSING = frozenset(")]},;.")
ATOM = r"(?:\d[\d.,]*|[^\W\d_][^\W_]*[\u0300-\u036f\u20d7′]*)"  # a number or a name
SCRIPTED = rf"{ATOM}(?:[_^]{ATOM})*"
SKIPPED = frozenset(("annotation", "annotation-xml", "mphantom", "maligngroup", "malignmark", "none", "mprescripts"))


def text_of(math: Any) -> str:
    """The text of a `math` element, blanks collapsed."""
    return " ".join(_row(math).split())


def _row(element: Any) -> str:
    """Children one after the other, blanks about relations and operators of two operands and about names of letters."""
    parts: list[str] = [_written(element.text)]  # no MathML, but found: `<mtext>10<sup>6</sup></mtext>`
    last = parts[0].strip()  # the item before, if an operator may follow it
    was_word = may_close = False  # whether a bracket takes away the blank that an operator has left
    was_scripted = False
    for child in element:
        text, name = _text(child), _name(child)
        if name == "mo" and text in SPACED:
            parts.append(text if text in SIGNS and not last else f" {text} ")
            last, was_word, may_close, was_scripted = "", False, False, False
            continue
        is_word = name in ("mi", "mtext", "mo") and len(text) > 1 and text.isalpha()
        is_word = is_word or (name in _SCRIPTED and text[-1:] == " ")  # `log_2`, which acts on what follows
        is_apart = is_word or was_word or (was_scripted and text[:1].isdecimal() and last[-1:].isdecimal())
        if text and last[-1:].isalnum() and text[0].isalnum() and is_apart:
            parts.append(" ")  # a digit behind an exponent is none of it
        if may_close and text[:1] in CLOSING:
            parts[-1] = parts[-1].rstrip()
        parts.append(text)
        if text.strip():
            last = "" if name == "mo" and text.strip() in {"(", "[", "{", ",", ";", "|"} else text.rstrip()
            was_word, may_close = is_word, name in _SCRIPTED or name in ("mrow", "mstyle")
            was_scripted = name in _SCRIPTED
        if tail := _written(child.tail):
            parts.append(tail)
            last, was_word, was_scripted = tail.strip(), False, False
    return "".join(parts)


def _written(text: str | None) -> str:
    """A text that stands among elements; blanks alone are of the file's layout."""
    return " ".join(text.split(" ")) if text and text.strip() else ""


def _name(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _text(element: Any) -> str:
    name = _name(element)
    if name in SKIPPED:
        return ""
    if name in _LAYOUT and len(element) >= _LAYOUT[name][0]:
        return _LAYOUT[name][1](element)
    if len(element):
        return _row(element)
    if name == "mspace":
        return " "
    text = " ".join((element.text or "").split(" ")) if name == "mtext" else (element.text or "").strip()
    if name == "mo":
        return INVISIBLE.get(text, f"{text} " if text in {",", ";"} else text)
    return text


def _item(element: Any) -> str:
    """Text that binds as one: in parentheses where it is more than one name, number, sign or group in brackets."""
    return _bound(_text(element).strip())


def _bound(text: str) -> str:
    if len(text) <= 1 or re.fullmatch(ATOM, text) or _is_bracketed(text):
        return text
    return f"({text})"


def _is_bracketed(text: str) -> bool:
    if text[0] + text[-1] not in {"()", "[]", "{}"}:
        return False
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _scripts(below: str, above: str) -> str:
    return (f"_{below}" if below else "") + (f"^{above}" if above else "")


def _scripted(base: Any, scripts: str, before: str = "") -> str:
    """A base with its scripts, and a blank where the base is an operator that acts on what follows."""
    text = _text(base).strip()
    if _is_operator(base):
        return f"{before}{text}{scripts} "
    return before + (text if _name(base) == "mo" else _bound(text)) + scripts


def _is_operator(base: Any) -> bool:
    """Whether a base, without its own scripts and what is about it, is an operator or names of functions alone."""
    while len(base) and (len(base) == 1 or _name(base) in _SCRIPTED):
        base = base[0]
    if any(len(child) for child in base):
        return False
    text = _text(base).strip()
    return text in OPERATORS or (bool(text) and FUNCTIONS.issuperset(text.split()))


def _over(element: Any) -> str:
    accent = ACCENTS.get(_text(element[1]).strip())
    if accent is None:
        return _scripted(element[0], _scripts("", _item(element[1])))
    base = _text(element[0]).strip()
    return base + accent[0] if len(base) == 1 else f"{accent[1]}({base})"


def _operand(element: Any) -> str:
    """A side of a fraction: `x_i^2` binds closer than its stroke."""
    text = _text(element).strip()
    return text if re.fullmatch(SCRIPTED, text) else _item(element)


def _fenced(element: Any) -> str:
    separators = "".join(element.get("separators", ",").split())
    items = [_text(child).strip() for child in element]
    inner = items[0] if items else ""
    for i, item in enumerate(items[1:]):
        inner += (separators[min(i, len(separators) - 1)] + " " if separators else "") + item
    return element.get("open", "(") + inner + element.get("close", ")")


def _table(element: Any) -> str:
    """Rows apart by `;`, cells by a blank: equations set in columns read on."""
    return "; ".join(" ".join(_text(cell).strip() for cell in row).strip() for row in element)


def _multiscripts(element: Any) -> str:
    names = [_name(child) for child in element]
    behind = names.index("mprescripts") if "mprescripts" in names else len(names)
    before, after = list(element[behind + 1 :]), list(element[1:behind])

    def scripts(items: list[Any]) -> str:
        marked = (("_^"[i % 2], _item(item)) for i, item in enumerate(items))
        return "".join(mark + text for mark, text in marked if text)

    return _scripted(element[0], scripts(after), scripts(before))


_SCRIPTED = frozenset(("msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts"))
# Least number of children, and how they are written.
_LAYOUT: dict[str, tuple[int, Callable[[Any], str]]] = {
    "mfrac": (2, lambda e: f"{_operand(e[0])}/{_operand(e[1])}"),
    "msqrt": (1, lambda e: f"√({_row(e).strip()})"),
    "mroot": (2, lambda e: f"({_text(e[0]).strip()})^(1/{_item(e[1])})"),
    "msub": (2, lambda e: _scripted(e[0], _scripts(_item(e[1]), ""))),
    "msup": (2, lambda e: _scripted(e[0], _scripts("", _item(e[1])))),
    "msubsup": (3, lambda e: _scripted(e[0], _scripts(_item(e[1]), _item(e[2])))),
    "munder": (2, lambda e: _scripted(e[0], _scripts(_item(e[1]), ""))),
    "mover": (2, _over),
    "munderover": (3, lambda e: _scripted(e[0], _scripts(_item(e[1]), _item(e[2])))),
    "mmultiscripts": (1, _multiscripts),
    "mfenced": (1, _fenced),
    "mtable": (1, _table),
    "semantics": (1, lambda e: _text(e[0])),
}
