"""MediaWiki's marks of language variants, `-{zh-hans:计算机; zh-hant:電腦}-`: of several writings one is text.

Source: mediawiki.org, Writing systems/Syntax. The variant is the one that a wiki stores most of its text in, so that an
article reads in one writing as far as it goes; `convert_chinese` may bring all of it to one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Of each language the writings in the order in which they are taken; the language itself stands for every writing.
_PREFERRED = """
zh zh-hans zh-cn zh-sg zh-my zh-hant zh-tw zh-hk zh-mo gan gan-hans gan-hant wuu wuu-hans wuu-hant yue yue-hans yue-hant
sr sr-ec sr-cyrl sr-el sr-latn sh sh-latn sh-cyrl bs bs-latn bs-cyrl kk kk-cyrl kk-kz kk-latn kk-tr kk-arab kk-cn
ku ku-latn ku-arab crh crh-latn crh-cyrl crh-ro uz uz-latn uz-cyrl tg tg-cyrl tg-latn tly tly-cyrl iu ike-cans ike-latn
shi shi-latn shi-tfng ban ban-latn ban-bali ban-x-dharma ban-x-palmleaf ban-x-pku mni mni-mtei mni-beng zgh zgh-tfng
zgh-latn en en-x-piglatin tt tt-cyrl tt-latn az az-latn az-arab pa pa-guru pa-arab
""".split()  # noqa: SIM905 - sixty short names
_RANK = {name: rank for rank, name in enumerate(_PREFERRED)}
_NAMES = "|".join(sorted(map(re.escape, _PREFERRED), key=len, reverse=True))
_FLAG = re.compile(rf"[A-Z+-]?|{_NAMES}")
_RULE = re.compile(rf"(?:^|;)(?:[^;|{{}}]*?=>)?\s*(?P<name>{_NAMES})\s*:", re.IGNORECASE)
_SILENT = frozenset("HTN-")  # set a rule or the title, or name the variant: nothing of it is text


class Chosen(NamedTuple):
    """Where in the markup between the marks the text is; empty where there is none."""

    start: int
    stop: int


def choose(markup: str) -> Chosen:
    """Of what stands between `-{` and `}-`, with what is nested in it blanked out, the part that is text."""
    head, bar, _ = markup.partition("|")
    flags = [flag.strip() for flag in head.split(";")]
    has_flags = bool(bar) and all(map(_FLAG.fullmatch, flags))
    start = len(head) + 1 if has_flags else 0
    if has_flags and not _SILENT.isdisjoint(flags):
        return Chosen(start, start)
    if has_flags and "R" in flags:
        return Chosen(start, len(markup))
    rules = list(_RULE.finditer(markup[start:]))
    if not rules or markup[start : start + rules[0].start()].strip():
        return Chosen(start, len(markup))  # no writings: text that is not to be converted
    ends = [rule.start() for rule in rules[1:]] + [len(markup) - start]
    best = min(range(len(rules)), key=lambda index: _RANK[rules[index]["name"].lower()])
    stop = start + ends[best]
    begin = start + rules[best].end()
    text = markup[begin:stop]
    stripped = text.strip().removesuffix(";").rstrip()
    begin += len(text) - len(text.lstrip())
    return Chosen(begin, begin + len(stripped))
