"""Cross-references that leave their text to the reader's program, as those of Copernicus: `Fig. <xref rid="F1"/>`.

Such a one gets the label of what it points to; behind a word that says the label's own, only the number: `Fig. 2`, not
`Fig. Figure 2`. A citation gets the reference's label or authors and year. One beside a cross-reference with a text is
the hidden middle of a range (`4–6` with a link to 5) and stays empty, and so does one whose target has no label.
"""

from __future__ import annotations

import re
from typing import Any

from pipelines.stages.corpus.readers.jats.inline import INLINE, text_before
from pipelines.stages.corpus.readers.jats.meta import find, local, plain
from pipelines.stages.corpus.readers.jats.references import short_citation

_INLINE = INLINE | {"xref"}
_ABOUT_AUTHORS = frozenset(("aff", "author-notes", "author-note", "contrib", "corresp"))
_KEPT = ("abstract", "trans-abstract", "body", "back", "floats-group", "floats-wrap")  # where an article has text
_NATBIB = re.compile(r"(.+?)\s*\(((?:\d{4}|in press|submitted|n\.d\.)[^()]*)\)")  # `Doe et al.(2010)Doe, Roe, and Poe`
_WORDED = re.compile(r"([^\W\d_]{2,}\.?)\s+(\S+)")  # `Figure 2`
_GLUED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+)\s*(\S+)")  # `图2`
_BEGINS_WITH_WORD = re.compile(r"[^\W\d_]{2,}")
_TOKEN = re.compile(r"[^\W\d_]+|\d[\w.]*|\S")
_BETWEEN = frozenset(("and", "or", "to", "through", "und", "bis", "et"))  # what may stand between two numbers
_LINE_LENGTH = 120


def fill_xrefs(article: Any) -> None:
    """Write into the empty cross-references of an article's text what a reader of its page sees."""
    empty = [xref for part in _KEPT for text in article.iter(f"{{*}}{part}") for xref in text.iter("{*}xref")]
    empty = [xref for xref in dict.fromkeys(empty) if _is_empty(xref) and xref.get("ref-type") not in _ABOUT_AUTHORS]
    if not empty:
        return
    targets = {element.get("id"): element for element in article.iter() if element.get("id")}
    hidden = _hidden(empty)
    for xref in empty:
        if xref in hidden:
            continue
        found = [targets[id] for id in xref.get("rid", "").split() if id in targets]
        if text := _joined(xref, found):
            xref.text = text


def _is_empty(xref: Any) -> bool:
    return not "".join(xref.itertext()).strip() and all(local(part) in INLINE for part in xref.iterdescendants())


def _hidden(empty: list[Any]) -> set[Any]:
    """Those in a row of cross-references, without a blank or a sign between, of which another has a text."""
    hidden: set[Any] = set()
    seen: set[Any] = set()
    for first in empty:  # in the order of the text: of a row, what stands before its first empty one has a text
        if first in seen:
            continue
        row = [first]
        while (behind := _beside(row[-1], back=False)) is not None:
            row.append(behind)
        seen.update(row)
        if _beside(first, back=True) is not None or not all(map(_is_empty, row)):
            hidden.update(row)
    return hidden


def _beside(xref: Any, back: bool) -> Any:
    other = xref.getprevious() if back else xref.getnext()
    between = None if other is None else (other.tail if back else xref.tail)
    return None if other is None or between or local(other) != "xref" else other


def _joined(xref: Any, targets: list[Any]) -> str:
    before = text_before(xref, _LINE_LENGTH, _INLINE)
    is_citation = bool(targets) and all(local(target) == "ref" for target in targets)
    if is_citation:
        text = _cited(xref, targets, before)
    else:
        text = ", ".join(filter(None, (_number(_label(target), before) for target in targets)))
    if before[-1:] in ("(", "["):
        text = _without_brackets(text)
    is_close = before[-1:].strip() and before[-1:] not in "([{–—-/,;"
    if is_close and not is_citation and _BEGINS_WITH_WORD.match(text):
        return ""  # set behind the end of a word or sentence: an anchor, and no part of what is said
    if text and _beside(xref, back=True) is not None:
        return f", {text}"
    is_glued = before[-1:].isalnum() and before[-1:] < "\u3040" and text[:1].isalnum()  # Chinese has no blanks
    return f" {text}" if is_glued else text


def _label(target: Any) -> str:
    """What a figure, table, equation or section is called: its label, or a section's title."""
    label = find(target, "label")
    if label is None:
        label = find(target, "caption", "label")
    text = plain(label).rstrip(".:|")
    if not text and local(target) in ("sec", "app"):
        text = plain(find(target, "title"))
    return text


def _number(label: str, before: str) -> str:
    """A label without the word that the text says already: in full (`Table`), cut short (`Figs.`) or further back."""
    if (glued := _GLUED.fullmatch(label)) and before.rstrip().endswith(glued[1]):
        return glued[2]
    worded = _WORDED.fullmatch(label)
    if worded is None:
        return label
    for token in reversed(_TOKEN.findall(before)):
        if len(token) > 1 and token.isalpha() and token.lower() not in _BETWEEN:
            return worded[2] if _is_short_for(token.lower(), worded[1].lower()) else label
        if token in {";", "!", "?"}:
            break
    return label


def _is_short_for(word: str, whole: str) -> bool:
    """Whether `figs`, `fig` or `figures` stands for `figure` or `fig.`."""
    word, whole = word.removesuffix("s"), whole.rstrip(".")
    length = min(4, len(word), len(whole))
    return length > 1 and word[:length] == whole[:length]


def _cited(xref: Any, refs: list[Any], before: str) -> str:
    """The labels of references; of names and years in the form that natbib's command, kept in the id, asks for."""
    labels = [plain(find(ref, "label")) for ref in refs]
    known = [(_NATBIB.match(label) if label else None) for label in labels]
    command = xref.get("id", "").partition(".")[0]
    is_bracketed = before.count("(") > before.count(")") or before.count("[") > before.count("]")
    texts = []
    for ref, label, named in zip(refs, labels, known, strict=True):
        author, year = named.groups() if named else ("", "") if label else short_citation(ref)
        if not author:
            texts.append(label.rstrip(".") or _position(ref))
        elif command == "author" or not year:
            texts.append(author)
        elif command in ("year", "altyear"):
            texts.append(year)
        else:
            texts.append(f"{author}, {year}" if is_bracketed or "paren" in command else f"{author} ({year})")
    is_named = any(known) or not any(labels)
    text = ("; " if is_named else ", ").join(filter(None, texts))
    return f"({text})" if command == "paren" and not is_bracketed and text else text


def _position(ref: Any) -> str:
    """The number of a reference that has no label, as its list would be numbered."""
    return str(1 + sum(local(other) == "ref" for other in ref.itersiblings(preceding=True)))


def _without_brackets(text: str) -> str:
    return text[1:-1] if re.fullmatch(r"\([^()]*\)|\[[^\[\]]*\]", text) else text
