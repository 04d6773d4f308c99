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
ATOM = r"(?:\d[\d.,]*|[^\W\d_][^\W_]*[\u0300-\u036f\u20d7′]*)"  # a number or a name
SCRIPTED = rf"{ATOM}(?:[_^]{ATOM})*"
SKIPPED = frozenset(("annotation", "annotation-xml", "mphantom", "maligngroup", "malignmark", "none", "mprescripts"))


def text_of(math: Any) -> str:
    """The text of a `math` element, blanks collapsed."""
    return " ".join(_row(math).split())


def _row(element: Any) -> str:
    """Children one after the other, blanks about relations and operators of two operands and about names of letters."""
    parts: list[str] = []
    last = ""  # the item before, if an operator may follow it
    was_word = False
    for child in element:
        text, name = _text(child), _name(child)
        if name == "mo" and text in SPACED:
            parts.append(text if text in SIGNS and not last else f" {text} ")
            last, was_word = "", False
            continue
        is_word = name in ("mi", "mtext", "mo") and len(text) > 1 and text.isalpha()
        if text and last[-1:].isalnum() and text[0].isalnum() and (is_word or was_word):
            parts.append(" ")
        parts.append(text)
        if text.strip():
            last = "" if name == "mo" and text.strip() in {"(", "[", "{", ",", ";", "|"} else text.rstrip()
            was_word = is_word
    return "".join(parts)


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
    text = _text(element).strip()
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


def _script(element: Any, mark: str) -> str:
    exponent = _item(element[1])
    return _base(element[0]) + (mark + exponent if exponent else "")


def _scripts(element: Any) -> str:
    below, above = _item(element[1]), _item(element[2])
    return _base(element[0]) + (f"_{below}" if below else "") + (f"^{above}" if above else "")


def _base(element: Any) -> str:
    """The base of a script: an operator such as a sum stands as it is."""
    return _text(element).strip() if _name(element) == "mo" else _item(element)


def _over(element: Any) -> str:
    accent = ACCENTS.get(_text(element[1]).strip())
    if accent is None:
        return _script(element, "^")
    base = _text(element[0]).strip()
    return base + accent[0] if len(base) == 1 else f"{accent[1]}({base})"


def _operand(element: Any) -> str:
    """A side of a fraction: `x_i^2` binds closer than its stroke."""
    text = _text(element).strip()
    return text if re.fullmatch(SCRIPTED, text) else _item(element)


def _fenced(element: Any) -> str:
    separators = "".join(element.get("separators", ",").split())
    items = [_text(child) for child in element]
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

    return scripts(before) + _base(element[0]) + scripts(after)


# Least number of children, and how they are written.
_LAYOUT: dict[str, tuple[int, Callable[[Any], str]]] = {
    "mfrac": (2, lambda e: f"{_operand(e[0])}/{_operand(e[1])}"),
    "msqrt": (1, lambda e: f"√({_row(e).strip()})"),
    "mroot": (2, lambda e: f"({_text(e[0]).strip()})^(1/{_item(e[1])})"),
    "msub": (2, lambda e: _script(e, "_")),
    "msup": (2, lambda e: _script(e, "^")),
    "msubsup": (3, _scripts),
    "munder": (2, lambda e: _script(e, "_")),
    "mover": (2, _over),
    "munderover": (3, _scripts),
    "mmultiscripts": (1, _multiscripts),
    "mfenced": (1, _fenced),
    "mtable": (1, _table),
    "semantics": (1, lambda e: _text(e[0])),
}
