"""C4's filter of pages: line by line, in the order of the authors' code, with the sentences of `words.py`.

The authors split sentences with NLTK's trained Punkt model; the rule here, like datatrove, needs no model.
"""

from __future__ import annotations

import re

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.filters import C4
from pipelines.stages.corpus.rules.words import sentence_count

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
ELLIPSIS = "..."
POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies").search


def c4(document: Document, config: C4) -> str:
    """Keeps the lines that look like sentences; rejects a page with too few, with code or with placeholder text."""
    kept: list[str] = []
    for line in map(str.strip, document.text.splitlines()):
        longest = config.max_word_characters
        if longest and len(line) > longest and max(map(len, line.split())) > longest:
            continue
        if config.citations and "[" in line:
            line = CITATION.sub("", line)
        if config.terminal_marks and (not line.endswith(config.terminal_marks) or line.endswith(ELLIPSIS)):
            continue
        if len(line.split(None, config.min_words_per_line)) < config.min_words_per_line:
            continue
        lower = line.lower()
        if config.lorem_ipsum and "lorem ipsum" in lower:
            return "lorem_ipsum"
        if config.javascript and "javascript" in lower:
            continue
        if config.curly_brace and "{" in line:
            return "curly_brace"
        if config.policy and POLICY(lower):
            continue
        kept.append(line)
    if sum(map(sentence_count, filter(None, kept))) < config.min_sentences:
        return "few_sentences"
    document.text = "\n".join(kept).strip()
    return ""
