"""Cuts out of MediaWiki markup what holds no text, and makes the rest well nested, in one pass.

A parser of wikitext tries every opening mark to the end of the page: what is never closed costs it quadratic time, and
some mixtures of a kilobyte cost it minutes. Here a stack matches the marks, in linear time, and the parser is given
text in which all of them match. Tables, references and templates that hold no text, half of a page, are cut without
being parsed; of the writings between marks of language variants one is left.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mwparserfromhell.definitions import URI_SCHEMES

from pipelines.stages.corpus.readers.wikipedia import templates as wikitext_templates
from pipelines.stages.corpus.readers.wikipedia import variants as wikitext_variants

CUT = "\x01"  # left where something was cut; XML cannot hold it
MAX_LIST_DEPTH = 32

_LITERAL_TAGS = frozenset(("nowiki", "pre", "math", "chem", "ce", "syntaxhighlight", "source"))
_FOREIGN_TAGS = frozenset(
    """gallery timeline imagemap score graph mapframe maplink hiero templatedata templatestyles categorytree inputbox
    section style script""".split()  # noqa: SIM905 - else a page long
)
_OPAQUE_TAGS = _LITERAL_TAGS | _FOREIGN_TAGS  # what stands in them is no markup
_CUT = _FOREIGN_TAGS | {"ref", "references", "table", "includeonly", "indicator", "{|", "{{"}
_EMPTY_TAGS = frozenset(("br", "wbr", "hr", "img"))
_ITEM_TAGS = {"li": "\n* ", "dt": "\n: ", "dd": "\n: ", "tr": "\n", "td": " ", "th": " "}  # as a rule not closed
_WALLS = frozenset(("{{", "[["))  # only their own closing mark ends them
_TAG_WALLS = _WALLS | {"{|"}
_MAX_OPEN_TAGS = 100  # that another mark may end
_MAX_VARIANT_CHARACTERS = 5000  # looked through for its writings
_ATTRIBUTES = r"""(?:[^<>=/]|/(?!>)|=\s*"[^"<>]*"|=\s*'[^'<>]*'|=(?!\s*["']))*+"""
_ADDRESS = "(?://|" + "|".join(name + ("://" if slashes else ":") for name, slashes in URI_SCHEMES.items()) + ")"
_MARKS = re.compile(
    rf"(?P<bracket>\[(?=\[{_ADDRESS}))|(?P<open>\{{\{{|\{{\||-\{{(?!\{{)|\[\[|\[(?={_ADDRESS}))"
    r"|(?P<close>\}\}|\}-|^[ \t]*\|\}(?!\})|\]+)|(?P<comment><!--)"
    rf"|</(?P<end>[a-z]\w*)\s*>|<(?P<tag>[a-z]\w*)(?:{_ATTRIBUTES}(?P<empty>/?)>)?"
    rf"|^(?P<heading>=+)(?=[^=\n]*$|(?:[^=\n]*+=++){{20}})|^[*#:;]{{{MAX_LIST_DEPTH}}}(?P<run>[*#:;]+)",
    re.IGNORECASE | re.MULTILINE,
)
_BLANK_REST = re.compile(r"[ \t]*\n")


class _Opened(NamedTuple):
    name: str  # `{{`, `{|`, `[[`, `[` or a tag's name
    start: int
    end: int
    is_tag: bool


class _Edit(NamedTuple):
    start: int
    end: int
    replacement: str


def cut(markup: str, keep_templates: bool = False) -> str:
    """The markup without comments, references, tables, galleries and templates, `CUT` in their places, well nested.

    What is opened and never closed, or closed across something else, becomes text; tags of HTML without a partner go.
    As in MediaWiki, templates, tables and links nest in one another, and tags end with what they stand in.
    """
    scan = _Scan(markup, keep_templates)
    position = 0
    for found in _MARKS.finditer(markup):
        if found.start() >= scan.skipped:
            scan.take(found)
    for mark in scan.opened:
        scan.escape(mark)
    pieces: list[str] = []
    for edit in sorted(scan.edits):
        if edit.start >= position:  # else it is inside of what was cut
            pieces += (markup[position : edit.start], edit.replacement)
            position = edit.end
    return "".join((*pieces, markup[position:]))


class _Scan:
    def __init__(self, markup: str, keep_templates: bool) -> None:
        self.opened: list[_Opened] = []
        self.edits: list[_Edit] = []
        self.skipped = 0  # marks before this position are text
        self._markup = markup
        self._cut = _CUT - {"{{"} if keep_templates else _CUT
        self._nested: list[tuple[int, int]] = []  # spans of what was closed last
        self._endless: set[str] = set()  # opaque tags that no end follows any more

    def take(self, found: re.Match[str]) -> None:
        """Note what a mark opens or closes."""
        start, end = found.span()
        if found["open"]:
            self.opened.append(_Opened(found["open"], start, end, is_tag=False))
        elif found["close"]:
            self._close_mark(found["close"].strip(), end)
        elif found["tag"]:
            self._open_tag(found["tag"].lower(), start, end, found["empty"])
        elif found["end"]:
            if not self._close(found["end"].lower(), end):
                self.edits.append(_Edit(start, end, ""))
        elif found["comment"]:
            self._cut_comment(start)
        elif found["heading"] or found["bracket"]:  # no heading; not a link, for addresses are no titles
            self.edits.append(_Edit(start, end, _as_text(found[0])))
        else:
            self.edits.append(_Edit(found.start("run"), end, ""))

    def escape(self, mark: _Opened) -> None:
        """Leave out a tag; make text of anything else."""
        text = "" if mark.is_tag else _as_text(self._markup[mark.start : mark.end])
        self.edits.append(_Edit(mark.start, mark.end, text))

    def _open_tag(self, name: str, start: int, end: int, slash: str | None) -> None:
        if slash is None:  # not even the tag is whole
            self.edits.append(_Edit(start, start + 1, _as_text("<")))
        elif slash:
            if name in self._cut:
                self.edits.append(_Edit(start, end, CUT))
        elif name in _OPAQUE_TAGS:
            closing = None if name in self._endless else re.compile(rf"</{name}\s*>", re.IGNORECASE)
            closed = closing and closing.search(self._markup, end)
            if closed:
                self.skipped = closed.end()
                if name in self._cut:
                    self.edits.append(_Edit(start, self.skipped, CUT))
            else:
                self._endless.add(name)
                self.edits.append(_Edit(start, end, ""))
        elif name in _ITEM_TAGS:
            self.edits.append(_Edit(start, end, _ITEM_TAGS[name]))
        elif name not in _EMPTY_TAGS:
            self.opened.append(_Opened(name, start, end, is_tag=True))

    def _close_mark(self, mark: str, end: int) -> None:
        if mark == "}}":
            self._close("{{", end)
        elif mark == "|}":
            self._close("{|", end)
        elif mark == "}-":
            self._close("-{", end)
        left = mark.count("]")
        while left:  # `]]]` ends an address and the link around it
            is_link = left > 1 and not (self.opened and self.opened[-1].name == "[")
            left -= 1 + is_link
            self._close("[[" if is_link else "[", end - left)

    def _close(self, name: str, end: int) -> bool:
        """Whether something was open to be closed. Tags and `[` inside it end with it."""
        walls = _WALLS if name in ("{{", "[[", "{|") else _TAG_WALLS
        innermost = len(self.opened) - 1
        for depth in range(innermost, max(-1, innermost - _MAX_OPEN_TAGS), -1):
            mark = self.opened[depth]
            if mark.name == name:
                break
            if mark.name in walls:
                return False
        else:
            return False
        if name in self._cut and not (name == "{{" and wikitext_templates.is_text(self._markup, mark.start, end)):
            self.edits.append(_Edit(mark.start, end, CUT))
        else:
            for inner in self.opened[depth + 1 :]:
                self.escape(inner)
        if name == "-{":
            self._choose_variant(mark, end)
        self._nested.append((mark.start, end))
        del self.opened[depth:]
        return True

    def _choose_variant(self, mark: _Opened, end: int) -> None:
        """Leave one of the writings; what is nested in them is not looked at."""
        inner = self._markup[mark.end : end - 2] if end - mark.end <= _MAX_VARIANT_CHARACTERS else ""
        while self._nested and self._nested[-1][0] >= mark.start:
            start, stop = self._nested.pop()
            if inner and start > mark.start:
                inner = inner[: start - mark.end] + "\x00" * (stop - start) + inner[stop - mark.end :]
        chosen = wikitext_variants.choose(inner) if inner else (0, end - 2 - mark.end)
        self.edits.append(_Edit(mark.start, mark.end + chosen[0], ""))
        self.edits.append(_Edit(mark.end + chosen[1], end, ""))

    def _cut_comment(self, start: int) -> None:
        """A comment goes, with its line if it has one of its own; one that is never closed takes all that follows."""
        end = self._markup.find("-->", start) + 3
        self.skipped = len(self._markup) if end < 3 else end
        line = self._markup.rfind("\n", 0, start) + 1
        rest = _BLANK_REST.match(self._markup, self.skipped)
        if rest and not self._markup[line:start].strip(" \t"):
            self.edits.append(_Edit(line, rest.end(), ""))
        else:
            self.edits.append(_Edit(start, self.skipped, ""))


def _as_text(marks: str) -> str:
    """Marks as entities, which no parser takes for marks."""
    return "".join(f"&#{ord(mark)};" for mark in marks)
