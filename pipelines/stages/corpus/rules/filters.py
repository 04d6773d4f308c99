"""Published filters: C4, Gopher (MassiveText), FineWeb, CodeParrot, and bounds on length and quality signals.

The fields carry the published thresholds, which were chosen on English web pages and on Python code. Words and
sentences are found as in English (`pipelines/stages/corpus/rules/english.py`).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from pipelines.stages.corpus.rules.rule import Count, Fraction, Rule

Positive = Annotated[float, Meta(ge=0)]


class NotEmpty(Rule, frozen=True):
    """Rejects documents without a visible character (`empty`)."""


class Length(Rule, frozen=True):
    """Rejects documents out of bounds (`few_characters`, `many_characters`, `few_words`, `many_words`)."""

    min_characters: Count = 0
    """Shorter documents are rejected."""
    max_characters: Count = 0
    """Longer documents are rejected; 0: no bound."""
    min_words: Count = 0
    """Documents of fewer words are rejected; punctuation marks are words."""
    max_words: Count = 0
    """Documents of more words are rejected; 0: no bound."""


class Signal(Rule, frozen=True):
    """Rejects by a number in the metadata, such as a quality signal of RedPajama-v2.

    The signal is a number, or RedPajama-v2's list of spans `[start, end, value]` with one span for the document.
    Reasons, each with the name after a colon: `low_signal`, `high_signal`, and `no_signal` where a document lacks it.
    """

    name: Annotated[str, Meta(min_length=1)]
    """Key in the document's metadata, or in its `quality_signals`, such as `rps_doc_word_count`."""
    min: float | None = None
    """Smaller values are rejected."""
    max: float | None = None
    """Larger values are rejected."""


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


class GopherQuality(Rule, frozen=True):
    """Gopher's quality filter (Rae et al. 2021, appendix A1.1).

    Reasons: `few_words`, `many_words`, `short_words`, `long_words`, `hashes`, `ellipses`, `bullet_lines`,
    `ellipsis_lines`, `few_alphabetic_words`, `few_stop_words`.
    """

    min_words: Count = 50
    """Documents of fewer words are rejected; punctuation marks do not count."""
    max_words: Count = 100_000
    """Documents of more words are rejected."""
    min_mean_word_characters: Positive = 3
    """Documents of shorter words on average are rejected; punctuation marks do not count."""
    max_mean_word_characters: Positive = 10
    """Documents of longer words on average are rejected."""
    max_symbols_per_word: Positive = 0.1
    """Documents with more `#`, or more ellipses, a word are rejected; here and below, punctuation marks are words."""
    max_bullet_lines: Fraction = 0.9
    """Documents with a larger share of lines that begin with `•` or `-` are rejected."""
    max_ellipsis_lines: Fraction = 0.3
    """Documents with a larger share of lines that end in an ellipsis are rejected."""
    min_alphabetic_words: Fraction = 0.8
    """Documents with a smaller share of words that hold a letter are rejected."""
    min_stop_words: Count = 2
    """Documents with fewer different ones of the stop words are rejected."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Words that running English holds; case counts."""


class GopherRepetition(Rule, frozen=True):
    """Gopher's repetition filter (Rae et al. 2021, table A1), on shares of a document that repeat what came before.

    The first occurrence is no repetition, and one repeated n-gram ends before the next begins, as in datatrove; the
    paper leaves both open. Reasons: `empty`, `duplicate_paragraphs`, `duplicate_lines`, each also with `_characters`,
    `top_2_gram` to `top_4_gram`, `duplicate_5_grams` to `duplicate_10_grams`.
    """

    max_duplicate_lines: Fraction = 0.30
    """Documents with a larger share of repeated lines are rejected."""
    max_duplicate_paragraphs: Fraction = 0.30
    """Documents with a larger share of repeated paragraphs (between empty lines) are rejected."""
    max_duplicate_line_characters: Fraction = 0.20
    """Documents with a larger share of characters in repeated lines are rejected."""
    max_duplicate_paragraph_characters: Fraction = 0.20
    """Documents with a larger share of characters in repeated paragraphs are rejected."""
    max_top_ngram_characters: tuple[Fraction, Fraction, Fraction] = (0.20, 0.18, 0.16)
    """Largest share of characters in all occurrences of the most frequent 2-gram, 3-gram and 4-gram of words."""
    max_duplicate_ngram_characters: tuple[Fraction, Fraction, Fraction, Fraction, Fraction, Fraction] = (
        *(0.15, 0.14, 0.13, 0.12, 0.11, 0.10),
    )
    """Largest share of characters in repeated n-grams of 5, 6, 7, 8, 9 and 10 words."""


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
    max_line_breaks_per_word: Positive = 0.3
    """Documents with more line breaks a word are rejected: lists."""


class CodeParrot(Rule, frozen=True):
    """CodeParrot's filter of source files (Tunstall et al. 2022), after Codex (Chen et al. 2021, section 3.1).

    Reasons: `empty`, `file_size`, `max_line_length`, `mean_line_length`, `alphanumeric_fraction`, `autogenerated`.
    """

    max_bytes: Count = 1_000_000
    """Larger files are rejected: data more often than code."""
    max_line_characters: Count = 1000
    """Files with a longer line are rejected."""
    max_mean_line_characters: Positive = 100
    """Files with longer lines on average are rejected."""
    min_alphanumeric_fraction: Fraction = 0.25
    """Files with a smaller share of letters and digits are rejected."""
    autogenerated: bool = True
    """Reject files that say in their first five lines that a program wrote them."""


class CodeParrotHeuristics(Rule, frozen=True):
    """CodeParrot's later heuristics of Python files (its `preprocessing.py` of 2022): `config_or_test`, `no_keywords`,
    `few_assignments`. Its bound on characters per token is left out, since it needs the tokenizer that comes after.
    """

    config_or_test: Fraction = 0.7
    """Share to reject of the files that look like configuration or tests."""
    max_mentions_per_line: Fraction = 0.05
    """A file with more mentions of `config`, or of `test`, a line looks like configuration or tests."""
    no_keywords: Fraction = 0.7
    """Share to reject of the files without `def`, `class`, `for` and `while`."""
    max_few_assignments: Count = 4
    """Files with up to this many `=` are rejected."""
    seed: Count = 0
    """Seed of which files the shares reject."""
