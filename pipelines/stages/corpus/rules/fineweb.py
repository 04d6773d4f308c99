"""FineWeb's filter (Penedo et al. 2024, 3.6): pages whose lines are no sentences, short, repeated, or lists."""

from __future__ import annotations

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Amount, Count, Fraction, Rule
from pipelines.stages.corpus.rules.words import TERMINAL_MARKS, repeated, share, words

ENDINGS = tuple(TERMINAL_MARKS)


class FineWeb(Rule, frozen=True, tag="fineweb"):
    """FineWeb's own filter (Penedo et al. 2024, section 3.6), with the thresholds of the code that made the dataset.

    The paper prints 0.1 where the code has 0.01 for repeated lines, and does not mention line breaks per word. Reasons:
    `empty`, `few_terminal_lines`, `short_lines`, `duplicate_line_characters`, `line_breaks`.
    """

    min_terminal_lines: Fraction = 0.12
    """Documents with a smaller share of lines that end as a sentence does, in any script, are rejected."""
    max_short_lines: Fraction = 0.67
    """Documents with a larger share of short lines are rejected."""
    short_line_characters: Count = 30
    """Lines up to this long are short."""
    max_duplicate_line_characters: Fraction = 0.01
    """Documents with a larger share of characters in repeated lines are rejected."""
    max_line_breaks_per_word: Amount = 0.3
    """Documents with more line breaks a word are rejected: lists."""

    def apply(self, document: Document) -> str:
        """Rejects by the shares of lines and of their characters; lines without a visible character do not count."""
        text = document.text
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return "empty"
        if share(sum(line.endswith(ENDINGS) for line in lines), len(lines)) < self.min_terminal_lines:
            return "few_terminal_lines"
        if share(sum(len(line) <= self.short_line_characters for line in lines), len(lines)) > self.max_short_lines:
            return "short_lines"
        breaks = text.count("\n")
        if share(repeated(lines)[1], len(text) - breaks) > self.max_duplicate_line_characters:
            return "duplicate_line_characters"
        if share(breaks, len(document.derive(words))) > self.max_line_breaks_per_word:
            return "line_breaks"
        return ""
