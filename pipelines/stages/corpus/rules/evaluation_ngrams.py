"""Overlap with evaluation data by n-grams of words (GPT-3: Brown et al. 2020, appendix C).

The evaluation data become a sorted array of 64-bit hashes of n-grams, the item of each, and a table of which leading
bits occur: 20 to 28 bytes an n-gram, so 28 MB a million at most, built once a process. A document's words are hashed
one by one (xxh3), combined over all its n-grams at once, and looked up in the table, then in the array.
Where several items share an n-gram the first of them is named.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from pipelines.stages.corpus.rules.items import items
from pipelines.stages.corpus.rules.ngrams import rolling_hashes
from pipelines.stages.corpus.rules.unicode import well_formed

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
_TOKEN = re.compile(rf"(?=\w)[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_NO_WORD = re.compile(rf"[^\w\s{_UNSPACED}]+")
_BLANKS = bytes(32 if chr(code).isspace() else code for code in range(256))
_ASCII_NO_WORD = bytes(code for code in range(128) if not (chr(code).isalnum() or chr(code).isspace() or code == 95))


def words(text: str) -> list[bytes]:
    """Lower-cased words without punctuation: split at white space; letters of unspaced scripts are words."""
    lowered = text.lower()
    if lowered.isascii():
        return lowered.encode().translate(_BLANKS, _ASCII_NO_WORD).split()
    return [word.encode() for word in _TOKEN.findall(_NO_WORD.sub("", lowered))]


def word_spans(text: str) -> list[tuple[int, int]]:
    """From where to where in the text each of its words reaches."""
    return [token.span() for token in _TOKEN.finditer(text) if _NO_WORD.sub("", token[0].lower())]


class Index(NamedTuple):
    """N-grams of one length: their hashes, sorted, the number of the item of each, and the leading bits that occur."""

    hashes: npt.NDArray[np.uint64]
    item: npt.NDArray[np.int32]
    leading: npt.NDArray[np.bool_]

    def find(self, ngrams: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
        """Which of the n-grams are here, and the item of each that is."""
        maybe = np.flatnonzero(self.leading[ngrams >> _leading_shift(self.leading)])
        wanted = ngrams[maybe]
        places = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        hit = self.hashes[places] == wanted
        return maybe[hit], self.item[places[hit]]


class Evaluation(NamedTuple):
    """All n-grams by their length, those of letters of unspaced scripts apart, and the names of the items."""

    names: tuple[str, ...]
    spaced: dict[int, Index]
    unspaced: dict[int, Index]


def _leading_shift(table: npt.NDArray[np.bool_]) -> np.uint64:
    return np.uint64(64 - (len(table).bit_length() - 1))


def word_hashes(found: list[bytes]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each word, shape (words,)."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, found), np.uint64, len(found))


@functools.cache
def _evaluation(paths: tuple[str, ...], ngram_words: int, min_words: int, max_items: int) -> Evaluation:
    names: list[str] = []
    collected: dict[tuple[bool, int], list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]]] = {}
    for path in paths:
        for name, strings in items(path, "decontaminate: paths"):
            for text in strings:
                found = words(well_formed(text))
                unspaced = 2 * len(_UNSPACED_LETTER.findall(text)) > len(found)
                factor = 2 if unspaced else 1
                if len(found) < min_words * factor:
                    continue
                length = min(len(found), ngram_words * factor)
                for _, ngrams in rolling_hashes(word_hashes(found), (length,)):
                    telling = ngrams[_mostly_words(found, length)]
                    number = np.full(len(telling), len(names), np.int32)
                    collected.setdefault((unspaced, length), []).append((telling, number))
            names.append(name)
    built: tuple[dict[int, Index], dict[int, Index]] = ({}, {})
    for (unspaced, length), parts in sorted(collected.items()):
        hashes, item = (np.concatenate(column) for column in zip(*parts, strict=True))
        index = _index(hashes, item, max_items)
        if len(index.hashes):
            built[unspaced][length] = index
    return Evaluation(tuple(names), *built)


def _mostly_words(found: list[bytes], length: int) -> npt.NDArray[np.bool_]:
    """Which n-grams have numbers for fewer than half of their words: counting from 1 to 13 gives no item away."""
    numbers = np.cumsum([0, *(word.isdigit() for word in found)])
    return (numbers[length:] - numbers[:-length]) * 2 < length


def _index(hashes: npt.NDArray[np.uint64], item: npt.NDArray[np.int32], max_items: int) -> Index:
    """Sort, count each item once, and leave out n-grams of more than `max_items` items."""
    order = np.lexsort((item, hashes))
    hashes, item = hashes[order], item[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (item[1:] != item[:-1])
    hashes, item = hashes[new], item[new]
    unique, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    few = counts <= max_items
    leading = np.zeros(1 << max(1, (8 * int(few.sum())).bit_length()), bool)
    leading[unique[few] >> _leading_shift(leading)] = True
    return Index(unique[few], item[first[few]], leading)


def overlaps(
    text: str, paths: tuple[str, ...], ngram_words: int, min_words: int, max_items: int
) -> tuple[str, list[tuple[int, int]]]:
    """The name of the item that a text shares the longest n-gram with (the first in the text; empty: none), and all
    that it shares, as runs of its words [start, stop)."""
    names, spaced, unspaced = _evaluation(paths, ngram_words, min_words, max_items)
    hashed = word_hashes(words(well_formed(text)))
    runs: list[tuple[int, int]] = []
    name = ""
    for indexes in (spaced, unspaced if _UNSPACED_LETTER.search(text) else {}):
        for length, ngrams in rolling_hashes(hashed, indexes):
            starts, owners = indexes[length].find(ngrams)
            if len(starts):
                name = names[owners[0]]
                runs += [(start, start + length) for start in starts.tolist()]
    return name, sorted(runs)
