"""What surrounds the text proper: Project Gutenberg's notices, licence headers of source files, web furniture.

Sources: the marks of Project Gutenberg's files; RedPajama v1 and data-juicer (`clean_copyright`), which drop the whole
leading comment, where here only its paragraphs that speak of copyright go; C4's list of policy phrases.
"""

from __future__ import annotations

import re

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Positive, Rule

# Books before about 2000 have the notice called "small print" before the text instead of a START line.
_BOOK_START = re.compile(
    r"\*{3} ?START OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT)[^*]{0,500}\*{3}"
    r"|\*END\*? ?THE SMALL PRINT![^\n]{0,200}\*END\*",
    re.IGNORECASE,
)
_BOOK_END = re.compile(
    r"\*{3} ?END OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT)"
    r"|^End of (?:the |this )?Project Gutenberg(?:['’]s)?\b[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_PRODUCED_BY = re.compile(
    r"(?:produced|(?:this )?e-?(?:book|text) (?:was )?prepared) by\b.*?(?:\n\s*\n|\Z)", re.IGNORECASE | re.DOTALL
)

# What may stand before the comment and stays: blank lines, `#!/bin/sh`, `# -*- coding: utf-8 -*-`, `<?php`.
_PREAMBLE = re.compile(
    r"\ufeff?(?:[ \t\r]*\n|#![^\n]*\n|#[^\n]*\bcoding[:=][^\n]*\n|<[?!][a-z][^\n]*\n)*", re.IGNORECASE
)
_DIRECTIVE = (
    r"#[ \t]*(?:include|define|undef|if|ifdef|ifndef|else|elif|endif|pragma|error|warning|line|import|region)\b"
)
_COMMENT = re.compile(
    r"[ \t]*/\*[^*]*(?:\*(?!/)[^*]*)*\*/[ \t\r]*(?:\n|\Z)"
    r"|[ \t]*<!--[^-]*(?:-(?!->)[^-]*)*-->[ \t\r]*(?:\n|\Z)"
    rf"|(?:[ \t]*(?!{_DIRECTIVE})#[^\n]*(?:\n|\Z))+"
    r"|(?:[ \t]*//[^\n]*(?:\n|\Z))+"
    r"|(?:[ \t]*--[^\n]*(?:\n|\Z))+"
    r"|(?:[ \t]*[;%][^\n]*(?:\n|\Z))+"
)
_BLOCKS = {"/*": " */", "<!": "-->"}
_DECORATION = " \t\r*#/;%-=!|+~<>"
_LICENSE = re.compile(
    r"copyright|\(c\) ?(?:19|20)\d\d|©|licen[cs]ed?\b|spdx-|all rights reserved|permission is (?:hereby )?granted"
    r"|redistributions? |altered source versions|warrant(?:y|ies)\b|free software|public domain"
    r"|you should have received a copy",
    re.IGNORECASE,
)

# Policy phrases: C4. The others are ours, and short on purpose: each line of them is furniture on any page.
_POLICY = re.compile(
    r"cookie policy|privacy policy|terms of use|(?:uses?|use of|accept(?: all)?) cookies|enable (?:javascript|cookies)",
    re.IGNORECASE,
)
_FURNITURE = re.compile(
    r"(?:subscribe|sign up)(?: (?:to|for) (?:our|the|this)(?: free| weekly| daily| monthly)? (?:newsletter|updates))?"
    r"(?: now| today)?|share (?:this(?: (?:article|page|post|story))?|on (?:facebook|twitter|linkedin|x|reddit))"
    r"|(?:tweet|pin|email|print) this|skip to (?:main )?content|(?:read|show|load|view|learn) more|click here"
    r"|leave a (?:comment|reply)|advertisement|back to top|all rights reserved|log ?in|sign in|powered by \w+"
    r"|点击查看更多|查看更多|阅读全文|展开全文|返回顶部|上一篇|下一篇|分享到|扫一扫|版权所有|免责声明|广告",
    re.IGNORECASE,
)
_FURNITURE_EDGES = " \t\r.!…»›>|·•:*-[]()"


class RemoveGutenbergBoilerplate(Rule, frozen=True):
    """Cut what Project Gutenberg puts before and after a book; a text without its marks stays whole."""

    def apply(self, document: Document) -> str:
        """Keep what lies between the marks; where one is missing, the text reaches to its own end on that side."""
        text = document.text
        end = _BOOK_END.search(text)
        stop = end.start() if end else len(text)
        starts = [match.end() for match in _BOOK_START.finditer(text, 0, stop)]
        if not starts and not end:
            return ""
        book = text[starts[-1] if starts else 0 : stop].strip()
        if starts and (credit := _PRODUCED_BY.match(book)):
            book = book[credit.end() :].strip()
        document.text = book
        return ""


class RemoveLicenseHeader(Rule, frozen=True):
    """Cut the licence and copyright notice from the comments at the head of a source file."""

    def apply(self, document: Document) -> str:
        """Cut licence paragraphs from the comments that come before everything else."""
        text = document.text
        position = start = _skip_preamble(text, 0)
        head: list[str] = []
        while comment := _COMMENT.match(text, position):
            kept = _without_license(comment[0])
            position = _skip_preamble(text, comment.end())
            gap = text[comment.end() : position]
            head += [kept, gap if kept or gap.strip() else ""]
        cleaned = "".join(head)
        if cleaned != text[start:position]:
            document.text = text[:start] + cleaned + text[position:]
        return ""


def _skip_preamble(text: str, position: int) -> int:
    match = _PREAMBLE.match(text, position)
    return match.end() if match else position


def _without_license(comment: str) -> str:
    """The comment without the paragraphs from the first to the last that speak of a licence; empty if none is left."""
    lines = comment.removesuffix("\n").split("\n")
    marked = [number for number, line in enumerate(lines) if _LICENSE.search(line)]
    if not marked:
        return comment
    said = [bool(line.strip(_DECORATION)) for line in lines]
    first, last = marked[0], marked[-1]
    while first and said[first - 1]:
        first -= 1
    while last + 1 < len(lines) and said[last + 1]:
        last += 1
    before, after = lines[:first], lines[last + 1 :]
    if not any(said[:first] + said[last + 1 :]):
        return ""
    if len(after) > 1 and not said[last + 1]:
        del after[0]
    opening = comment.lstrip()[:2]
    if closing := _BLOCKS.get(opening):
        before = before or ["<!--" if opening == "<!" else opening]
        after = after or [closing]
    return "\n".join([*before, *after]) + comment[len(comment.removesuffix("\n")) :]


class RemoveWebBoilerplate(Rule, frozen=True):
    """Drop lines of cookie notices, sharing buttons and newsletter forms, by a short fixed list."""

    max_line_characters: Positive = 300
    """Longer lines are text and stay (ours)."""

    def apply(self, document: Document) -> str:
        """Drop furniture lines."""
        lines = document.text.split("\n")
        kept = [line for line in lines if len(line) > self.max_line_characters or not _is_furniture(line)]
        if len(kept) < len(lines):
            document.text = "\n".join(kept)
        return ""


def _is_furniture(line: str) -> bool:
    return bool(_POLICY.search(line) or _FURNITURE.fullmatch(line.strip(_FURNITURE_EDGES)))
