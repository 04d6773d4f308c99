"""Gopher's filters (Rae et al. 2021, appendix A1.1 and table A1), decided as datatrove decides them.

N-grams are numbered, not joined to strings: an n-gram can only repeat where the n-grams one shorter repeat, so each
length looks at the few places that the length before left over, and a text without repetition is sorted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.filters import GopherQuality, GopherRepetition
from pipelines.stages.corpus.rules.words import alphabetic, characters, lines, repeated, share, words

ELLIPSES = ("...", "…")
BULLETS = ("•", "-")
Integers = npt.NDArray[np.int64]


def gopher_quality(document: Document, config: GopherQuality) -> str:
    """Rejects what does not look like running English."""
    text, all_words = document.text, document.derive(words)
    lengths = characters(all_words)
    number = len(lengths) - lengths.count(0)
    if number < config.min_words:
        return "few_words"
    if number > config.max_words:
        return "many_words"
    mean_characters = share(sum(lengths), number)
    if mean_characters < config.min_mean_word_characters:
        return "short_words"
    if mean_characters > config.max_mean_word_characters:
        return "long_words"
    if share(text.count("#"), len(all_words)) > config.max_symbols_per_word:
        return "hashes"
    if share(sum(map(text.count, ELLIPSES)), len(all_words)) > config.max_symbols_per_word:
        return "ellipses"
    all_lines = document.derive(lines)
    if share(sum(line.lstrip().startswith(BULLETS) for line in all_lines), len(all_lines)) > config.max_bullet_lines:
        return "bullet_lines"
    if share(sum(line.rstrip().endswith(ELLIPSES) for line in all_lines), len(all_lines)) > config.max_ellipsis_lines:
        return "ellipsis_lines"
    if share(alphabetic(all_words), len(all_words)) < config.min_alphabetic_words:
        return "few_alphabetic_words"
    if len(set(config.stop_words).intersection(all_words)) < config.min_stop_words:
        return "few_stop_words"
    return ""


def gopher_repetition(document: Document, config: GopherRepetition) -> str:
    """Rejects a document that repeats too much of its own lines, paragraphs or n-grams of words."""
    text = document.text
    if not text:
        return "empty"
    paragraphs = list(filter(None, [part.lstrip("\n") for part in text.strip().split("\n\n")]))
    parts, part_characters = repeated(paragraphs)
    if share(parts, len(paragraphs)) > config.max_duplicate_paragraphs:
        return "duplicate_paragraphs"
    if share(part_characters, len(text)) > config.max_duplicate_paragraph_characters:
        return "duplicate_paragraph_characters"
    first, *others = text.split("\n")
    all_lines = [first, *filter(None, others[:-1]), *others[-1:]]  # those at the ends count even if empty
    parts, part_characters = repeated(all_lines)
    if share(parts, len(all_lines)) > config.max_duplicate_lines:
        return "duplicate_lines"
    if share(part_characters, len(text)) > config.max_duplicate_line_characters:
        return "duplicate_line_characters"
    top, duplicate = config.max_top_ngram_characters, config.max_duplicate_ngram_characters
    bounds = (*top, *duplicate)
    for n, found in enumerate(_ngrams(document.derive(words), longest=1 + len(bounds)), start=2):
        if share(found.top() if n < 2 + len(top) else found.duplicate(), len(text)) > bounds[n - 2]:
            return f"top_{n}_gram" if n < 2 + len(top) else f"duplicate_{n}_grams"
    return ""


class _Ngrams(NamedTuple):
    """The n-grams of one length that occur more than once: where, ascending, and which of them it is."""

    n: int
    positions: Integers
    groups: Integers
    ends: Integers  # characters up to each word

    def top(self) -> int:
        """Characters, blanks between words included, in all occurrences of the most frequent; of equals the first."""
        first, times = 0, 1
        if len(self.groups):
            counts = np.bincount(self.groups)
            times = int(counts.max())
            first = int(self.positions[np.argmax(counts[self.groups] == times)])
        return (int(self.ends[first + self.n] - self.ends[first]) + self.n - 1) * times

    def duplicate(self) -> int:
        """Characters, without blanks, in those that occurred before and do not overlap the last that counted."""
        total, free, seen = 0, 0, set()
        for position, group in zip(self.positions.tolist(), self.groups.tolist(), strict=True):
            if position < free:
                continue
            if group in seen:
                free = position + self.n
                total += int(self.ends[free] - self.ends[position])
            seen.add(group)
        return total


def _ngrams(words: list[str], longest: int) -> Iterator[_Ngrams]:
    """The repeated n-grams of 2 words, of 3, and so on; ends with the longest that the text can hold."""
    number = {word: i for i, word in enumerate(dict.fromkeys(words))}
    ids = np.fromiter(map(number.__getitem__, words), np.int64, len(words))
    ends = np.zeros(len(words) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, number), np.int64, len(number))[ids], out=ends[1:])
    positions = np.flatnonzero(np.bincount(ids)[ids] > 1)
    groups = ids[positions]
    for n in range(2, min(longest, len(words)) + 1):
        if len(positions):
            follows = np.zeros(len(words) + 1, bool)
            follows[positions] = True
            extends = follows[positions + 1]  # what it extends to must repeat without its first word too
            positions = positions[extends]
            groups, counts = _numbered(groups[extends] * len(words) + ids[positions + n - 1])
            repeats = counts[groups] > 1
            positions, groups = positions[repeats], groups[repeats]
        yield _Ngrams(n, positions, groups, ends)


def _numbered(keys: Integers) -> tuple[Integers, Integers]:
    """Numbers for the distinct keys, from 0, and how often each occurs."""
    order = np.argsort(keys)
    ascending = keys[order]
    changes = np.zeros(len(keys), np.int64)
    np.cumsum(ascending[1:] != ascending[:-1], out=changes[1:])
    numbers = np.empty_like(changes)
    numbers[order] = changes
    return numbers, np.bincount(changes)
