"""MediaWiki markup to text, on the syntax tree of mwparserfromhell.

Left out are comments, references, tables, galleries, files, categories, language links, pronunciations, and templates
that hold no words of the text, unless asked for. Kept are headings on lines of their own (if anything is left below
them), list items behind `- `, the text of links, code, TeX between dollars, and exponents behind `^`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

from mwparserfromhell.nodes import Argument, Comment, ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink
from mwparserfromhell.parser import Parser, ParserError
from mwparserfromhell.wikicode import Wikicode

from pipelines.stages.corpus.readers.superscripts import power
from pipelines.stages.corpus.readers.wikipedia.marks import CUT, cut
from pipelines.stages.corpus.readers.wikipedia.templates import SUPERSCRIPT, name_of, text_of
from pipelines.stages.corpus.readers.wikipedia.words import BLOCK

MAX_CHARACTERS = 4 << 20  # MediaWiki itself refuses more than 2 MiB
FILES_AND_CATEGORIES = frozenset(("file", "image", "media", "category"))
HEADING, ITEM, INDENT = "\x02", "\x03", "\x04"  # like `CUT`, marks that are tidied away

_APOSTROPHES = re.compile(r"'{2,}")
_SPACES = re.compile(r"(?<=\S)[ \t]{2,}")
_MAGIC_WORD = re.compile(r"__[^\W\d_]+__")
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple)(?:-[a-z]+)*:")
_MEDIA = re.compile(r"\.(?:jpe?g|png|gif|svg|tiff?|webp|pdf|djvu|og[gva]|webm|wav|mp3|midi?)$", re.IGNORECASE)

_BLOCK_TAGS = frozenset(
    "p div blockquote center ul ol dl li dt dd h1 h2 h3 h4 poem pre source syntaxhighlight".split()  # noqa: SIM905
)
# A number, or an expression of letters that are no ordinal's ending; `2+` is an ion's charge.
_BASE_LENGTH = 16  # characters in which the number before a superscript stands
_BASE_PIECES = 32  # of the rendered text that are looked through for it
_FRACTION = re.compile(r"\d+/\d")
_EXPONENT = re.compile(r"(?:[+−–-]?[\dijkmnpqxyzα-ω(])(?:[\dijkmnpqxyzα-ω().,/^*·⋅×+−–-]*[\dijkmnpqxyzα-ω)])?")
_CHARGE = re.compile(r"\d+[+−–-]")  # `SO42−` would be of another compound
_TEX = {"math": "${}$", "chem": r"$\ce{{{}}}$", "ce": r"$\ce{{{}}}$"}

_EMPTY_PARENTHESES = re.compile(rf"[ \t]*[(（](?:[ \t,;:]*{CUT})+[ \t,;:]*[)）]")
_AFTER_PARENTHESIS = re.compile(rf"(?<=[(（])(?:[ \t,;:]*{CUT})+[ \t,;:]*")
_AT_START = re.compile(rf"^(?:{CUT}[ \t]*)+", re.MULTILINE)
_BEFORE_GAP = re.compile(rf"[ \t]*{CUT}+(?=[ \t.,;:!?)）]|$)", re.MULTILINE)
_BLOCKS = re.compile(rf"[ \t]*{BLOCK}[{BLOCK} \t]*")
_ITEM_MARKS = re.compile(rf"^[{ITEM}{INDENT} \t]+")


def to_text(
    markup: str,
    *,
    removed: frozenset[str] = FILES_AND_CATEGORIES,
    templates: bool = False,
    language: str = "",
) -> str:
    """The text of a page.

    `removed` are the namespaces, in lower case, that links are removed to; `templates` keeps what templates' arguments
    hold; `language` is the wiki's. Raises ValueError for markup that is too long or nested too deep.
    """
    if len(markup) > MAX_CHARACTERS:
        raise ValueError(f"markup: {len(markup)} characters, more than {MAX_CHARACTERS}")
    try:
        code = Parser().parse(cut(markup, templates), skip_style_tags=True)
        rendering = _Rendering(removed, templates, language)
        rendering.add(code)
    except RecursionError as error:
        raise ValueError("markup: nested too deep") from error
    except ParserError as error:
        raise ValueError(f"markup: {error}") from error
    return _tidy("".join(rendering.out))


class _Rendering:
    """Pieces of text, collected node by node."""

    def __init__(self, removed: frozenset[str], templates: bool, language: str) -> None:
        self.out: list[str] = []
        self._removed = removed
        self._templates = templates
        self._language = language

    def add(self, code: Wikicode | None) -> None:
        if code is not None:
            for node in code.nodes:
                _RENDER[type(node)](self, node)

    def _rendered(self, code: Wikicode) -> str:
        inner = _Rendering(self._removed, self._templates, self._language)
        inner.add(code)
        return "".join(inner.out)

    def text(self, node: Text) -> None:
        value: str = node.value
        if "''" in value:
            value = _APOSTROPHES.sub(_without_quotes, value)
        if "__" in value:
            value = _MAGIC_WORD.sub(lambda found: CUT if found[0].isupper() else found[0], value)
        self.out.append(_SPACES.sub(" ", value) if "  " in value else value)

    def heading(self, node: Heading) -> None:
        self.out.append("\n" + HEADING * node.level)
        self.add(node.title)
        self.out.append("\n")

    def entity(self, node: HTMLEntity) -> None:
        self.out.append(html.unescape(str(node)))

    def comment(self, node: Comment) -> None:
        self.out.append(CUT)

    def wikilink(self, node: Wikilink) -> None:
        title = str(node.title).strip()
        namespace, colon, _ = title.partition(":")
        is_elsewhere = colon and (
            namespace.strip().lower().replace("_", " ") in self._removed
            or (namespace and _MEDIA.search(title))
            or (node.text is None and _LANGUAGE.match(title))
        )
        if is_elsewhere:
            self.out.append(CUT)
        elif node.text is None:
            self.out.append(html.unescape(title.removeprefix(":")))
        else:
            self.add(node.text)

    def external_link(self, node: ExternalLink) -> None:
        if node.title is not None:
            self.add(node.title)
        else:
            self.out.append(CUT if node.brackets else str(node.url))

    def template(self, node: Template) -> None:
        if self._templates:
            held = [self._rendered(parameter.value) for parameter in node.params]
            is_block = any("\n" in value for value in held)
            self.out.append(("\n" if is_block else " ").join(filter(None, map(str.strip, held))))
            self.out.append(CUT)
            return
        call = self._rendered(node.name)
        name = name_of(call)
        values = {str(parameter.name).strip(): self._rendered(parameter.value) for parameter in node.params}
        if name.endswith(":"):  # a function, whose first value stands behind its colon
            values = {"1": call.partition(":")[2], **{_next(key): value for key, value in values.items()}}
        shown = text_of(name, values, self._language)
        if shown.startswith(SUPERSCRIPT):
            self._raise(shown.strip(SUPERSCRIPT))
        else:
            if _FRACTION.match(shown) and self._before(1).isdecimal():
                self.out.append(" ")  # `3{{frac|1|2}}` is no `31/2`
            self.out.append(shown or CUT)

    def _before(self, length: int) -> str:
        """The last characters of the text so far."""
        text = ""
        for piece in reversed(self.out[-_BASE_PIECES:]):
            text = piece.replace(CUT, "") + text
            if len(text) >= length:
                break
        return text[-length:]

    def _raise(self, text: str) -> None:
        """A superscript: behind `^` where it is a number above a number, letter or bracket, or an exponent of a number
        in another way (`6–8`, `−n`).
        """
        exponent, before = text.strip(), self._before(_BASE_LENGTH)
        is_exponent = bool(_EXPONENT.fullmatch(exponent))
        base = before[-1:]
        if is_exponent or _CHARGE.fullmatch(exponent):
            if base.isdecimal() or (is_exponent and (base.isalnum() or base in tuple(")]}|"))):
                text = f"^{exponent}"
        elif base.isdecimal():
            text = power(before, text, "") or text
        self.out.append(text)

    def argument(self, node: Argument) -> None:
        self.add(node.default)

    def tag(self, node: Tag) -> None:
        name = str(node.tag).strip().lower()
        if node.wiki_markup in ("*", "#"):
            self.out.append(ITEM)
        elif node.wiki_markup in (":", ";"):
            is_at_start = not self.out or self.out[-1][-1:] in ("", "\n", ITEM, INDENT)
            self.out.append(INDENT if is_at_start else ":")  # a colon inside the line: `; term : definition`
        elif name in _TEX:
            self.out.append(_TEX[name].format(str(node.contents or "").strip()))
        elif name in ("br", "hr"):
            self.out.append("\n")
        elif name == "sup":
            self._raise(self._rendered(node.contents))
        else:
            edge = "\n" if name in _BLOCK_TAGS else ""
            self.out.append(edge)
            if name in ("nowiki", "pre"):
                self.out.append(html.unescape(str(node.contents or "")))
            elif name in ("source", "syntaxhighlight"):
                self.out.append(str(node.contents or ""))
            else:
                self.add(node.contents)
            self.out.append(edge)


_RENDER: dict[type, Callable[[_Rendering, Any], None]] = {
    Text: _Rendering.text,
    Heading: _Rendering.heading,
    HTMLEntity: _Rendering.entity,
    Comment: _Rendering.comment,
    Wikilink: _Rendering.wikilink,
    ExternalLink: _Rendering.external_link,
    Template: _Rendering.template,
    Argument: _Rendering.argument,
    Tag: _Rendering.tag,
}


def _next(key: str) -> str:
    return str(int(key) + 1) if key.isdecimal() else key


def _without_quotes(run: re.Match[str]) -> str:
    """Two apostrophes are italics, three bold, five both; what a run has beyond that is text."""
    length = len(run[0])
    return "'" if length == 4 else "'" * max(0, length - 5)


def _tidy(text: str) -> str:
    """Close the gaps that removals leave; drop empty items, headings above nothing, and blank lines in a row."""
    if BLOCK in text:
        text = _BLOCKS.sub("\n", text)
    if CUT in text:
        text = _AFTER_PARENTHESIS.sub("", _EMPTY_PARENTHESES.sub(CUT, text))
        text = _BEFORE_GAP.sub("", _AT_START.sub("", text)).replace(CUT, "")
    lines: list[str] = []
    headings: list[tuple[int, str]] = []
    is_behind_gap = False
    for line in text.split("\n"):
        if line.startswith(HEADING):
            title = line.lstrip(HEADING)
            level = len(line) - len(title)
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, title.strip()))
            continue
        if ITEM in line or INDENT in line:
            line = _ITEM_MARKS.sub(lambda marks: "- " if ITEM in marks[0] else "", line)
            line = line.replace(ITEM, "").replace(INDENT, "")  # of a list inside a line, as in a template's value
        line = line.replace(HEADING, "").rstrip()
        if line in ("", "-"):
            is_behind_gap = True
            continue
        if lines and (headings or is_behind_gap):
            lines.append("")
        for _, title in headings:
            lines += (title, "")
        headings.clear()
        is_behind_gap = False
        lines.append(line)
    return "\n".join(lines)
