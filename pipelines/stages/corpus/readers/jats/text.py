"""The text of an article of JATS: title, abstracts, sections with headings, captions where they stand, footnotes.

A writer walks the elements. Elements unknown here are inline: their text joins what stands around them without a blank.
What floats (figures, tables, boxes, footnotes) waits for the end of the paragraph that it interrupts. Paragraphs are
blocks with a blank line between; a list or a table is one block, an item or a row a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from pipelines.stages.corpus.readers.jats.authors import is_about_authors, is_section_about_authors
from pipelines.stages.corpus.readers.jats.mathml import text_of as formula_text
from pipelines.stages.corpus.readers.jats.meta import XML_LANG, find, local, plain
from pipelines.stages.corpus.readers.jats.references import person_text, reference_text
from pipelines.stages.corpus.readers.jats.tables import TableRows

BREAK = "\u2028"  # a line break within a paragraph, while blanks are collapsed

_TEASERS = frozenset(("toc", "teaser"))  # for lists of articles: they say again what the abstract says
_BREAKS = re.compile(f"[ {BREAK}]*{BREAK}[ {BREAK}]*")
_TEX = re.compile(r"\\begin\s*\{document\}(.*)\\end\s*\{document\}", re.DOTALL)
# PMC's line for supplements, and the addresses that eLife gives every figure.
_BOILERPLATE = re.compile(
    r"\(?click here (?:for|to view)\b[\w ,]{0,60}\.?\)?|DOI:? https?://(?:dx\.)?doi\.org/\S+", re.IGNORECASE
)


class Parts(NamedTuple):
    """Which parts of an article count; `JatsSource` describes them."""

    tables: bool
    formulas: bool
    references: bool
    acknowledgements: bool


def text_of(article: Any, parts: Parts) -> str:
    """The text of an `article`, `sub-article` or `response`, without those within it."""
    writer = _Writer(parts)
    meta = find(article, "front", "article-meta")
    if meta is None:
        meta = find(article, "front-stub")
    if meta is not None:
        writer.front(meta)
    for part in ("body", "floats-group", "floats-wrap", "back"):
        element = find(article, part)
        if element is not None:
            writer.block(element)
    if meta is not None and parts.acknowledgements:
        writer.about_authors(meta)
    return "\n\n".join(writer.blocks)


def _collapsed(text: str) -> str:
    """XML's blanks as one each; a no-break or thin space is the author's. `replace` is ten times as fast as a regex."""
    text = text.replace("\n", " ").replace("\t", " ").replace("\r", " ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip(" ")


class _Heading(str):
    """A block that goes with what follows it, and goes where nothing does."""


class _Writer:
    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.blocks: list[str] = []
        self.line: list[str] = []  # of the paragraph under way
        self.later: list[Any] = []  # what floats in it
        self.label = ""  # of what comes next
        self.tables = TableRows()

    def walk(self, element: Any) -> None:
        if element.text:
            self.line.append(element.text)
        for child in element:
            handle = _HANDLERS.get(local(child))
            if handle is None:
                self.walk(child)
            else:
                handle(self, child)
            if child.tail:
                self.line.append(child.tail)

    def push(self, text: str) -> None:
        if text:
            self.blocks.append(f"{self.label} {text}" if self.label else text)
            self.label = ""

    def flush(self) -> None:
        """End the paragraph under way, then write what floated in it."""
        text = _collapsed("".join(self.line))
        self.line = []
        if BREAK in text:
            text = _BREAKS.sub("\n", text).strip("\n")
        if text and not _BOILERPLATE.fullmatch(text):
            self.push(text)
        floats, self.later = self.later, []
        for element in floats:
            self.block(element)

    def block(self, element: Any) -> None:
        self.flush()
        self.walk(element)
        self.flush()
        self.label = ""

    def capture(self, element: Any) -> list[str]:
        """The blocks of an element, kept out of the text; what floats in it waits."""
        outside = self.blocks, self.line, self.label, self.later
        self.blocks, self.line, self.label, self.later = [], [], "", []
        self.walk(element)
        floats, self.later = self.later, []
        self.flush()
        found = self.blocks
        self.blocks, self.line, self.label, self.later = outside
        self.later += floats
        return found

    def one_line(self, element: Any) -> str:
        return "" if element is None else " ".join(self.capture(element)).replace("\n", " ")

    def front(self, meta: Any) -> None:
        """Title and abstracts; a translated title stands before the abstract in its language."""
        group = find(meta, "title-group")
        titles = [] if group is None else list(group)
        parts = [self.one_line(title) for title in titles if local(title) in ("article-title", "subtitle")]
        self.later = []  # footnotes of a title are about the authors
        self.push(": ".join(filter(None, parts)))
        for abstract in meta:
            if local(abstract) == "trans-abstract":
                for title in titles:
                    if local(title) == "trans-title-group" and title.get(XML_LANG) == abstract.get(XML_LANG):
                        self.push(self.one_line(find(title, "trans-title")))
            if local(abstract) in ("abstract", "trans-abstract") and abstract.get("abstract-type") not in _TEASERS:
                _section(self, abstract)

    def about_authors(self, meta: Any) -> None:
        """Funding and the authors' statements of the front matter."""
        for group in meta:
            if local(group) in ("funding-group", "author-notes"):
                for child in group:
                    if local(child) == "funding-statement" or is_about_authors(child, ""):
                        self.block(child)


def _section(writer: _Writer, element: Any) -> None:
    """A part with a heading, which is left out where nothing follows it."""
    if not writer.parts.acknowledgements and is_section_about_authors(element):
        return
    writer.flush()
    start = len(writer.blocks)
    writer.block(element)
    if len(writer.blocks) == start + 1 and isinstance(writer.blocks[-1], _Heading):
        writer.blocks.pop()


def _about_authors(writer: _Writer, element: Any) -> None:
    if writer.parts.acknowledgements:
        _section(writer, element)


def _title(writer: _Writer, element: Any) -> None:
    writer.flush()
    before = len(writer.blocks)
    writer.push(writer.one_line(element))
    if len(writer.blocks) > before and local(element.getparent()) != "caption":
        writer.blocks[-1] = _Heading(writer.blocks[-1])


def _label(writer: _Writer, element: Any) -> None:
    if local(element.getparent()) != "disp-formula":
        writer.flush()
        writer.label = plain(element)


def _float(writer: _Writer, element: Any) -> None:
    if "".join(writer.line).strip():
        writer.later.append(element)
    else:
        writer.block(element)


def _footnote(writer: _Writer, element: Any) -> None:
    heading = re.split(r"[:.]", plain(element)[:100], maxsplit=1)[0]
    if writer.parts.acknowledgements or not is_about_authors(element, heading):
        _float(writer, element)


def _list(writer: _Writer, element: Any) -> None:
    writer.flush()
    kind = element.get("list-type", "")
    lines: list[str] = []
    for child in element:
        if local(child) == "title":
            _title(writer, child)
        if local(child) != "list-item":
            continue
        text = "\n".join(writer.capture(child)).replace("\n", "\n  ")
        mark = "" if kind == "simple" or find(child, "label") is not None else _mark(kind, len(lines))
        if text:
            lines.append(f"{mark} {text}" if mark else text)
    writer.push("\n".join(lines))


def _mark(kind: str, index: int) -> str:
    if kind.startswith("alpha") and index < 26:
        return f"{chr(ord('A' if kind == 'alpha-upper' else 'a') + index)}."
    return f"{index + 1}." if kind == "order" or kind.startswith("roman") else "-"


def _definitions(writer: _Writer, element: Any) -> None:
    writer.flush()
    lines = []
    for child in element:
        if local(child) == "title":
            _title(writer, child)
        if local(child) in ("def-item", "def-list"):
            parts = [writer.one_line(part).rstrip(":") for part in child if local(part) in ("term", "def", "def-item")]
            lines.append(": ".join(filter(None, parts)))
    writer.push("\n".join(filter(None, lines)))


def _table(writer: _Writer, element: Any) -> None:
    writer.flush()
    if not writer.parts.tables:
        return
    writer.push("\n".join(map(" | ".join, writer.tables.rows(element, writer.one_line))))


def _verbatim(writer: _Writer, element: Any) -> None:
    text = "".join(element.itertext())
    if local(element) == "code" and "\n" not in text:
        writer.line.append(text)
        return
    writer.flush()
    writer.push(text.strip("\r\n").replace("\r\n", "\n") if text.strip() else "")


def _verse(writer: _Writer, element: Any) -> None:
    writer.flush()
    writer.push("\n".join(writer.capture(element)))


def _alternatives(writer: _Writer, element: Any) -> None:
    """One of several forms of the same: TeX, which loses nothing, before MathML, and a table before its picture."""
    forms = {local(child): child for child in reversed(element)}
    known = [forms[name] for name in ("tex-math", "math", "table", "array", "textual-form") if name in forms]
    chosen = known[0] if known else next(iter(element), None)
    if chosen is not None:
        _HANDLERS.get(local(chosen), _Writer.walk)(writer, chosen)


def _display_formula(writer: _Writer, element: Any) -> None:
    writer.flush()
    if writer.parts.formulas:
        writer.push(" ".join(filter(None, (writer.one_line(element), plain(find(element, "label"))))))


def _inline_formula(writer: _Writer, element: Any) -> None:
    if writer.parts.formulas:
        writer.walk(element)


def _tex(writer: _Writer, element: Any) -> None:
    if writer.parts.formulas:
        text = "".join(element.itertext())
        document = _TEX.search(text)
        writer.line.append((document[1] if document else text).strip())


def _math(writer: _Writer, element: Any) -> None:
    if writer.parts.formulas:
        writer.line.append(formula_text(element))


def _references(writer: _Writer, element: Any) -> None:
    if writer.parts.references:
        _section(writer, element)


def _reference(writer: _Writer, element: Any) -> None:
    writer.flush()
    writer.push(reference_text(element))


def _skip(writer: _Writer, element: Any) -> None:
    """Nothing of it is text."""


def _each(names: str, handle: Callable[[_Writer, Any], None]) -> dict[str, Callable[[_Writer, Any], None]]:
    return dict.fromkeys(names.split(), handle)


_HANDLERS: dict[str, Callable[[_Writer, Any], None]] = {
    **_each(
        "p caption disp-quote statement app-group disp-formula-group attrib speaker speech verse-line def sig "
        "sig-block table-wrap-foot question answer explanation list-item td th entry subtitle article",
        _Writer.block,
    ),
    **_each("sec abstract app glossary fn-group notes", _section),
    **_each("ack", _about_authors),
    **_each(
        "fig fig-group table-wrap table-wrap-group boxed-text supplementary-material media chem-struct-wrap", _float
    ),
    **_each("fn", _footnote),
    **_each("title", _title),
    **_each("label", _label),
    **_each("list", _list),
    **_each("def-list", _definitions),
    **_each("table array", _table),
    **_each("preformat code", _verbatim),
    **_each("verse-group", _verse),
    **_each("alternatives citation-alternatives name-alternatives collab-alternatives", _alternatives),
    **_each("disp-formula", _display_formula),
    **_each("inline-formula", _inline_formula),
    **_each("tex-math", _tex),
    **_each("math", _math),
    **_each("ref-list", _references),
    **_each("ref", _reference),
    **_each("element-citation mixed-citation nlm-citation", lambda writer, e: writer.line.append(reference_text(e))),
    **_each("name", lambda writer, e: writer.line.append(person_text(e))),
    **_each("break", lambda writer, e: writer.line.append(BREAK)),
    **_each(
        "object-id graphic inline-graphic alt-text long-desc permissions sec-meta kwd-group contrib-group author-notes "
        "bio history index-term index-term-range-end glyph-data processing-meta custom-meta-group counts subj-group",
        _skip,
    ),
}
