"""C4's filter of pages: line by line, in the order of the authors' code, with the sentences of `words.py`.

The authors split sentences with NLTK's trained Punkt model; the rule here, like datatrove, needs no model.
"""

from __future__ import annotations

import re

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Count, Rule
from pipelines.stages.corpus.rules.words import sentence_count

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
ELLIPSIS = "..."
POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies").search


class C4(Rule, frozen=True, tag="c4"):
    """C4's page filter (Raffel et al. 2020, section 2.2): drops lines, then pages with little left.

    Order and details follow the authors' code (tensorflow_datasets, `c4_utils.clean_page`), which asks for 5 words a
    line and 3 sentences a page; the defaults are datatrove's, 3 and 5. Bad words are a rule of their own. Reasons:
    `lorem_ipsum`, `curly_brace`, `few_sentences`.
    """

    terminal_marks: tuple[str, ...] = (".", "?", "!", '"')
    """Lines that do not end in one of these, or end in an ellipsis `...`, are dropped; empty keeps them."""
    min_words_per_line: Count = 3
    """Lines of fewer words (between blanks) are dropped."""
    max_word_characters: Count = 1000
    """Lines with a longer word are dropped; 0 keeps them."""
    min_sentences: Count = 5
    """Pages with fewer sentences in the lines that stay are rejected."""
    citations: bool = True
    """Remove `[1]`, `[]`, `[edit]` and `[citation needed]`, which Wikipedia's pages carry."""
    javascript: bool = True
    """Drop lines that mention Javascript."""
    policy: bool = True
    """Drop lines that mention terms of use, a privacy or cookie policy, or the use of cookies."""
    lorem_ipsum: bool = True
    """Reject pages with placeholder text."""
    curly_brace: bool = True
    """Reject pages with `{`, which are code."""

    def apply(self, document: Document) -> str:
        """Keeps the lines that look like sentences; rejects a page with too few, with code or with placeholder text."""
        kept: list[str] = []
        for line in map(str.strip, document.text.splitlines()):
            longest = self.max_word_characters
            if longest and len(line) > longest and max(map(len, line.split())) > longest:
                continue
            if self.citations and "[" in line:
                line = CITATION.sub("", line)
            if self.terminal_marks and (not line.endswith(self.terminal_marks) or line.endswith(ELLIPSIS)):
                continue
            if len(line.split(None, self.min_words_per_line)) < self.min_words_per_line:
                continue
            lower = line.lower()
            if self.lorem_ipsum and "lorem ipsum" in lower:
                return "lorem_ipsum"
            if self.javascript and "javascript" in lower:
                continue
            if self.curly_brace and "{" in line:
                return "curly_brace"
            if self.policy and POLICY(lower):
                continue
            kept.append(line)
        if sum(map(sentence_count, filter(None, kept))) < self.min_sentences:
            return "few_sentences"
        document.text = "\n".join(kept).strip()
        return ""
