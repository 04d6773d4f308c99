"""MediaWiki markup to text, on the syntax tree of mwparserfromhell.

Left out are comments, references, tables, galleries, files, categories, language links, and templates unless asked for.
Kept are headings on lines of their own (if anything is left below them), list items behind `- `, the text of links,
code, and TeX between dollars. What is opened and never closed costs the parser quadratic time: `check` bounds it first.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

from mwparserfromhell.nodes import Argument, Comment, ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink
from mwparserfromhell.parser import Parser
from mwparserfromhell.wikicode import Wikicode

MAX_CHARACTERS = 4 << 20  # MediaWiki itself refuses more than 2 MiB
MAX_LIST_DEPTH = 32
FILES_AND_CATEGORIES = frozenset(("file", "image", "media", "category"))

HEADING, REMOVED, ITEM, INDENT = (
    "\x01",
    "\x02",
    "\x03",
    "\x04",
)  # marks between rendering and tidying; XML cannot hold them

_ATTRIBUTES = r"""(?:[^<>=/]|/(?!>)|=\s*"[^"<>]*"|=\s*'[^'<>]*'|=(?!\s*["']))*+"""
_MARKS = re.compile(
    r"(?P<open>\{\{|\{\||\[\[|\[(?=\w+:|//))|(?P<close>\}\}|^[ \t]*\|\}(?!\})|\]\]?)"
    rf"|</(?P<end>[a-z]\w*)\s*>|<(?P<tag>[a-z]\w*)(?:{_ATTRIBUTES}(?P<empty>/?)>)?"
    rf"|^(?P<run>[*#:;]{{{MAX_LIST_DEPTH + 1},}})",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSES = {"}}": "{{", "|}": "{|", "]]": "[[", "]": "["}
_WALLS = frozenset(("{{", "{|", "[["))
_LITERAL = r"nowiki|pre|math|chem|ce|syntaxhighlight|source"
_NOTES = re.compile(
    rf"(?P<keep><(?P<literal>{_LITERAL})\b[^<>]*(?<!/)>.*?</(?P=literal)\s*>)"
    r"|(?P<comment>^[ \t]*<!--(?:(?!-->).)*+-->[ \t]*\n|<!--.*?(?:-->|\Z))"
    r"|<ref\b[^<>]*/>|<ref\b[^<>]*>[^<]*(?:<(?!/?ref\b)[^<]*)*</ref\s*>",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_APOSTROPHES = re.compile(r"'{2,}")
_SPACES = re.compile(r"(?<=[^\s])[ \t]{2,}")
_MAGIC_WORD = re.compile(r"__[^\W\d_]+__")
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple)(?:-[a-z]+)*:")
_MEDIA = re.compile(r"\.(?:jpe?g|png|gif|svg|tiff?|webp|pdf|djvu|og[gva]|webm|wav|mp3|midi?)$", re.IGNORECASE)

_SINGLE_TAGS = frozenset(("br", "wbr", "hr", "img", "li", "dt", "dd", "tr", "td", "th"))
_REMOVED_TAGS = frozenset(
    """ref references table gallery timeline imagemap score graph mapframe maplink hiero templatedata templatestyles
    categorytree inputbox section indicator includeonly style script""".split()  # noqa: SIM905 - else a page long
)
_BLOCK_TAGS = frozenset(
    "p div blockquote center ul ol dl li dt dd h1 h2 h3 h4 poem pre source syntaxhighlight".split()  # noqa: SIM905
)
_TEX = {"math": "${}$", "chem": r"$\ce{{{}}}$", "ce": r"$\ce{{{}}}$"}

_EMPTY_PARENTHESES = re.compile(rf"[ \t]*[(（](?:[ \t,;:]*{REMOVED})+[ \t,;:]*[)）]")
_AFTER_PARENTHESIS = re.compile(rf"(?<=[(（])(?:[ \t,;:]*{REMOVED})+[ \t,;:]*")
_AT_START = re.compile(rf"^(?:{REMOVED}[ \t]*)+", re.MULTILINE)
_BEFORE_GAP = re.compile(rf"[ \t]*{REMOVED}+(?=[ \t.,;:!?)）]|$)", re.MULTILINE)
_ITEM_MARKS = re.compile(rf"^[{ITEM}{INDENT} \t]+")


def to_text(markup: str, *, removed: frozenset[str] = FILES_AND_CATEGORIES, templates: bool = False) -> str:
    """The text of a page.

    `removed` are the namespaces, in lower case, that links are removed to; `templates` keeps what templates' arguments
    hold. Raises ValueError where the markup would take too long to parse.
    """
    if len(markup) > MAX_CHARACTERS:
        raise ValueError(f"markup: {len(markup)} characters, more than {MAX_CHARACTERS}")
    markup = balance(markup)
    markup = _NOTES.sub(lambda found: found["keep"] or ("" if found["comment"] else REMOVED), markup)
    try:
        code = Parser().parse(markup, skip_style_tags=True)
        rendering = _Rendering(removed, templates)
        rendering.add(code)
    except RecursionError as error:
        raise ValueError("markup: nested too deep") from error
    return _tidy("".join(rendering.out))


def balance(markup: str) -> str:
    """The markup with what is opened and never closed made text, and tags of HTML without a partner left out.

    As in MediaWiki, templates, tables and links nest in one another: a closing mark of an outer one means nothing in an
    inner one. Tags end with what they stand in.
    """
    opened: list[tuple[str, re.Match[str]]] = []
    edits: list[tuple[int, int, str]] = []
    for found in _MARKS.finditer(markup):
        tag = found["tag"]
        if tag and found["empty"] is None:
            _escape(found, edits)  # not even the tag is whole
        elif found["run"]:
            edits.append((found.start() + MAX_LIST_DEPTH, found.end(), ""))
        elif found["open"] or (tag and not found["empty"] and tag.lower() not in _SINGLE_TAGS):
            opened.append((found["open"] or tag.lower(), found))
        elif not tag:
            _close(found, opened, edits)
    for _, found in opened:
        _escape(found, edits)
    if not edits:
        return markup
    pieces: list[str] = []
    position = 0
    for start, end, replacement in sorted(edits):
        pieces += (markup[position:start], replacement)
        position = end
    return "".join((*pieces, markup[position:]))


def _close(found: re.Match[str], opened: list[tuple[str, re.Match[str]]], edits: list[tuple[int, int, str]]) -> None:
    """Close what the mark closes, and the tags inside it; a mark that closes nothing stays text, unless it is a tag."""
    name = _CLOSES[found["close"].strip()] if found["close"] else found["end"].lower()
    depth = len(opened) - 1
    while depth >= 0 and opened[depth][0] != name and opened[depth][0] not in _WALLS:
        depth -= 1
    if depth >= 0 and opened[depth][0] == name:
        for _, inner in opened[depth + 1 :]:
            _escape(inner, edits)
        del opened[depth:]
    elif found["end"]:
        edits.append((found.start(), found.end(), ""))


def _escape(found: re.Match[str], edits: list[tuple[int, int, str]]) -> None:
    """Leave out a whole tag; make text of anything else."""
    if found["tag"] and found["empty"] is not None:
        edits.append((found.start(), found.end(), ""))
        return
    mark = found["open"] or "<"
    edits.append((found.start(), found.start() + len(mark), "".join(f"&#{ord(sign)};" for sign in mark)))


class _Rendering:
    """Pieces of text, collected node by node."""

    def __init__(self, removed: frozenset[str], templates: bool) -> None:
        self.out: list[str] = []
        self._removed = removed
        self._templates = templates

    def add(self, code: Wikicode | None) -> None:
        if code is not None:
            for node in code.nodes:
                _RENDER[type(node)](self, node)

    def _rendered(self, code: Wikicode) -> str:
        inner = _Rendering(self._removed, self._templates)
        inner.add(code)
        return "".join(inner.out)

    def text(self, node: Text) -> None:
        value: str = node.value
        if "''" in value:
            value = _APOSTROPHES.sub(_without_quotes, value)
        if "__" in value:
            value = _MAGIC_WORD.sub(lambda found: "" if found[0].isupper() else found[0], value)
        self.out.append(_SPACES.sub(" ", value) if "  " in value else value)

    def heading(self, node: Heading) -> None:
        self.out.append("\n" + HEADING * node.level)
        self.add(node.title)
        self.out.append("\n")

    def entity(self, node: HTMLEntity) -> None:
        self.out.append(html.unescape(str(node)))

    def comment(self, node: Comment) -> None:
        self.out.append(REMOVED)

    def wikilink(self, node: Wikilink) -> None:
        title = str(node.title).strip()
        namespace, colon, _ = title.partition(":")
        if (
            colon
            and namespace
            and (
                namespace.strip().lower().replace("_", " ") in self._removed
                or _MEDIA.search(title)
                or (node.text is None and _LANGUAGE.match(title))
            )
        ):
            self.out.append(REMOVED)
        elif node.text is None:
            self.out.append(html.unescape(title.removeprefix(":")))
        else:
            self.add(node.text)

    def external_link(self, node: ExternalLink) -> None:
        if node.title is not None:
            self.add(node.title)
        else:
            self.out.append(REMOVED if node.brackets else str(node.url))

    def template(self, node: Template) -> None:
        if self._templates:
            values = [self._rendered(parameter.value) for parameter in node.params]
            is_block = any("\n" in value for value in values)
            self.out.append(("\n" if is_block else " ").join(filter(None, map(str.strip, values))))
        self.out.append(REMOVED)

    def argument(self, node: Argument) -> None:
        self.add(node.default)

    def tag(self, node: Tag) -> None:
        name = str(node.tag).strip().lower()
        if node.wiki_markup in ("*", "#"):
            self.out.append(ITEM)
        elif node.wiki_markup in (":", ";"):
            is_at_start = not self.out or self.out[-1][-1:] in ("", "\n", ITEM, INDENT)
            self.out.append(INDENT if is_at_start else ":")  # a colon inside the line: `; term : definition`
        elif name in _REMOVED_TAGS:
            self.out.append(REMOVED)
        elif name in _TEX:
            self.out.append(_TEX[name].format(str(node.contents or "").strip()))
        elif name in ("br", "hr"):
            self.out.append("\n")
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


def _without_quotes(run: re.Match[str]) -> str:
    """Two apostrophes are italics, three bold, five both; what a run has beyond that is text."""
    length = len(run[0])
    return "'" if length == 4 else "'" * max(0, length - 5)


def _tidy(text: str) -> str:
    """Close the gaps that removals leave; drop empty items, headings above nothing, and blank lines in a row."""
    if REMOVED in text:
        text = _AFTER_PARENTHESIS.sub("", _EMPTY_PARENTHESES.sub(REMOVED, text))
        text = _BEFORE_GAP.sub("", _AT_START.sub("", text)).replace(REMOVED, "")
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
            line = _ITEM_MARKS.sub("- " if ITEM in line else "", line)
        line = line.rstrip()
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
