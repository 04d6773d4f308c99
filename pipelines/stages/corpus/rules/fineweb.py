"""FineWeb's filter (Penedo et al. 2024, 3.6): pages whose lines are no sentences, short, repeated, or lists."""

from __future__ import annotations

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.filters import FineWeb
from pipelines.stages.corpus.rules.words import TERMINAL_MARKS, repeated, share, words

ENDINGS = tuple(TERMINAL_MARKS)


def fineweb(document: Document, config: FineWeb) -> str:
    """Rejects by the shares of lines and of their characters; lines without a visible character do not count."""
    text = document.text
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "empty"
    if share(sum(line.endswith(ENDINGS) for line in lines), len(lines)) < config.min_terminal_lines:
        return "few_terminal_lines"
    if share(sum(len(line) <= config.short_line_characters for line in lines), len(lines)) > config.max_short_lines:
        return "short_lines"
    breaks = text.count("\n")
    if share(repeated(lines)[1], len(text) - breaks) > config.max_duplicate_line_characters:
        return "duplicate_line_characters"
    if share(breaks, len(document.derive(words))) > config.max_line_breaks_per_word:
        return "line_breaks"
    return ""
