"""Rules over documents: `rule(document, config) -> reason`, an empty reason where the document stays.

A rule may change the document (`document.text = ...`) before it decides; the corpus counts how many it changed. Words,
lines and the like are computed once a text: `document.derive(words)`. A reason is one word, or a word and a detail
after a colon (`contaminated: humaneval.jsonl:12`); words are counted, details are shown as examples. Found by the type
of the config, and imported when first used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster.control.failures import describe
from cluster.core.errors import JobError, TrunklineError
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.readers import load
from pipelines.stages.corpus.rules.cleaners import (
    BadWords,
    ChineseLines,
    ChineseQuality,
    ChineseRepetition,
    ConvertChinese,
    Decontaminate,
    HalfWidth,
    Language,
    NormalizeWhitespace,
    RemoveGutenbergBoilerplate,
    RemoveLicenseHeader,
    RemovePersonalData,
    RemoveWebBoilerplate,
    RepairUnicode,
    UrlBlockList,
)
from pipelines.stages.corpus.rules.filters import (
    C4,
    CodeParrot,
    CodeParrotHeuristics,
    FineWeb,
    GopherQuality,
    GopherRepetition,
    Length,
    NotEmpty,
    Signal,
)
from pipelines.stages.corpus.rules.rule import Python, Rule

Apply = Callable[[Document, Any], str]

RULES: dict[type[Rule], str] = {
    Python: "pipelines.stages.corpus.rules.user:apply",
    RepairUnicode: "pipelines.stages.corpus.rules.unicode:repair",
    NormalizeWhitespace: "pipelines.stages.corpus.rules.unicode:whitespace",
    RemoveGutenbergBoilerplate: "pipelines.stages.corpus.rules.boilerplate:gutenberg",
    RemoveLicenseHeader: "pipelines.stages.corpus.rules.boilerplate:license_header",
    RemoveWebBoilerplate: "pipelines.stages.corpus.rules.boilerplate:web",
    Language: "pipelines.stages.corpus.rules.language:language",
    RemovePersonalData: "pipelines.stages.corpus.rules.pii:remove",
    ConvertChinese: "pipelines.stages.corpus.rules.chinese:convert",
    HalfWidth: "pipelines.stages.corpus.rules.chinese:half_width",
    ChineseLines: "pipelines.stages.corpus.rules.chinese:lines",
    ChineseQuality: "pipelines.stages.corpus.rules.chinese:quality",
    ChineseRepetition: "pipelines.stages.corpus.rules.chinese:repetition",
    UrlBlockList: "pipelines.stages.corpus.rules.blocklists:url",
    BadWords: "pipelines.stages.corpus.rules.blocklists:bad_words",
    Decontaminate: "pipelines.stages.corpus.rules.decontamination:decontaminate",
    NotEmpty: "pipelines.stages.corpus.rules.bounds:not_empty",
    Length: "pipelines.stages.corpus.rules.bounds:length",
    Signal: "pipelines.stages.corpus.rules.bounds:signal",
    C4: "pipelines.stages.corpus.rules.c4:c4",
    GopherQuality: "pipelines.stages.corpus.rules.gopher:gopher_quality",
    GopherRepetition: "pipelines.stages.corpus.rules.gopher:gopher_repetition",
    FineWeb: "pipelines.stages.corpus.rules.fineweb:fineweb",
    CodeParrot: "pipelines.stages.corpus.rules.code:code_parrot",
    CodeParrotHeuristics: "pipelines.stages.corpus.rules.code:code_parrot_heuristics",
}


def apply(rules: Sequence[Rule], document: Document) -> tuple[int, str, list[bool]]:
    """Run a document through the rules until one rejects it.

    Returns the number of rules that it passed, the reason of the one that rejected it (empty: it stays), and for each
    rule that saw it whether it changed the text. An error of a rule names the rule and the document.
    """
    changed: list[bool] = []
    for passed, rule in enumerate(rules):
        before = document.text
        try:
            reason: str = load(RULES[type(rule)])(document, rule)
        except TrunklineError:
            raise
        except Exception as error:
            told = f"rule {rule.__struct_config__.tag} failed on {document.id}: {describe(error)}"
            raise JobError(told, "--debug shows where; leave the document out.") from error
        changed.append(document.text is not before and document.text != before)
        if reason:
            return passed, reason, changed
    return len(rules), "", changed
