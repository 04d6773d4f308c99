"""Gopher's filters (Rae et al. 2021, appendix A1.1 and table A1), decided as datatrove decides them."""

from __future__ import annotations

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Amount, Count, Fraction, Rule
from pipelines.stages.corpus.rules.words import alphabetic, characters, lines, repeated, share, words

ELLIPSES = ("...", "…")
BULLETS = ("•", "-")


class GopherQuality(Rule, frozen=True):
    """Gopher's quality filter (Rae et al. 2021, appendix A1.1).

    Reasons: `few_words`, `many_words`, `short_words`, `long_words`, `hashes`, `ellipses`, `bullet_lines`,
    `ellipsis_lines`, `few_alphabetic_words`, `few_stop_words`.
    """

    min_words: Count = 50
    """Documents of fewer words are rejected; punctuation marks do not count."""
    max_words: Count = 100_000
    """Documents of more words are rejected."""
    min_mean_word_characters: Amount = 3
    """Documents of shorter words on average are rejected; punctuation marks do not count."""
    max_mean_word_characters: Amount = 10
    """Documents of longer words on average are rejected."""
    max_symbols_per_word: Amount = 0.1
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

    def apply(self, document: Document) -> str:
        """Rejects what does not look like running English."""
        text, all_words = document.text, document.derive(words)
        lengths = characters(all_words)
        number = len(lengths) - lengths.count(0)
        if number < self.min_words:
            return "few_words"
        if number > self.max_words:
            return "many_words"
        mean_characters = share(sum(lengths), number)
        if mean_characters < self.min_mean_word_characters:
            return "short_words"
        if mean_characters > self.max_mean_word_characters:
            return "long_words"
        if share(text.count("#"), len(all_words)) > self.max_symbols_per_word:
            return "hashes"
        if share(sum(map(text.count, ELLIPSES)), len(all_words)) > self.max_symbols_per_word:
            return "ellipses"
        all_lines = document.derive(lines)
        if share(sum(line.lstrip().startswith(BULLETS) for line in all_lines), len(all_lines)) > self.max_bullet_lines:
            return "bullet_lines"
        if share(sum(line.rstrip().endswith(ELLIPSES) for line in all_lines), len(all_lines)) > self.max_ellipsis_lines:
            return "ellipsis_lines"
        if share(alphabetic(all_words), len(all_words)) < self.min_alphabetic_words:
            return "few_alphabetic_words"
        if len(set(self.stop_words).intersection(all_words)) < self.min_stop_words:
            return "few_stop_words"
        return ""


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

    def apply(self, document: Document) -> str:
        """Rejects a document that repeats too much of its own lines, paragraphs or n-grams of words."""
        from pipelines.stages.corpus.rules.repeated_ngrams import repeated_ngrams

        text = document.text
        if not text:
            return "empty"
        paragraphs = list(filter(None, [part.lstrip("\n") for part in text.strip().split("\n\n")]))
        parts, part_characters = repeated(paragraphs)
        if share(parts, len(paragraphs)) > self.max_duplicate_paragraphs:
            return "duplicate_paragraphs"
        if share(part_characters, len(text)) > self.max_duplicate_paragraph_characters:
            return "duplicate_paragraph_characters"
        first, *others = text.split("\n")
        all_lines = [first, *filter(None, others[:-1]), *others[-1:]]  # those at the ends count even if empty
        parts, part_characters = repeated(all_lines)
        if share(parts, len(all_lines)) > self.max_duplicate_lines:
            return "duplicate_lines"
        if share(part_characters, len(text)) > self.max_duplicate_line_characters:
            return "duplicate_line_characters"
        top, duplicate = self.max_top_ngram_characters, self.max_duplicate_ngram_characters
        bounds = (*top, *duplicate)
        for n, found in enumerate(repeated_ngrams(document.derive(words), longest=1 + len(bounds)), start=2):
            if share(found.top() if n < 2 + len(top) else found.duplicate(), len(text)) > bounds[n - 2]:
                return f"top_{n}_gram" if n < 2 + len(top) else f"duplicate_{n}_grams"
        return ""
