"""Rules for Chinese text, counted in characters, since there are no blanks between words.

Sources: EvalWeb (ChineseWebText, arXiv 2311.01149, `preprocess.py`), Chinese-C4 (shjwudp/c4-dataset-script), MNBVC's
list of cleaning steps, WuDaoCorpora; the fields of the specs say which. EvalWeb leaves out the last run of a text when
it counts repetition; here it counts.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any, Literal

from msgspec import Meta

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Amount, Count, Fraction, Positive, Rule
from pipelines.stages.corpus.rules.unicode import well_formed

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_NO_HAN = re.compile("[^\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_PUNCTUATION = re.compile(r"[，。、；：？！…—·～“”‘’（）《》〈〉【】「」『』〔〕.,;:?!'\"()\[\]{}<>~`@#$%^&*_+=|\\/-]")
_STOP_CHARACTERS = "的一是了不在有和人这"
_STOP_CHARACTERS_TRADITIONAL = {"这": "這"}

_SENTENCE_ENDS = "。！？…”："
_UNFINISHED = re.compile(r"(?<=[。！？…])[^。！？…]*\Z")
_GARBLED = re.compile("[\ufffd□■\ue000-\uf8ff]")

_LETTERS = {0xFEE0 + code: code for code in range(0x21, 0x7F) if chr(code).isalnum()}
_ALL = {0xFEE0 + code: code for code in range(0x21, 0x7F)} | {0x3000: 0x20}
_FULL_WIDTH = re.compile("[\uff01-\uff5e\u3000]")


def count_han(text: str) -> int:
    """Chinese characters in a text."""
    return 0 if text.isascii() else len(_NO_HAN.sub("", text))


@functools.cache
def _converter(config: str) -> Any:
    import opencc

    return opencc.OpenCC(config)


class ConvertChinese(Rule, frozen=True):
    """Convert between traditional and simplified characters (OpenCC); WuDaoCorpora and MNBVC convert to simplified."""

    config: Literal[
        "t2s", "s2t", "s2tw", "s2twp", "tw2s", "tw2sp", "s2hk", "s2hkp", "hk2s", "hk2sp", "t2tw", "tw2t", "t2hk", "hk2t"
    ] = "t2s"
    """OpenCC's configuration: s simplified, t traditional, tw Taiwan, hk Hong Kong, final p with their words."""

    def apply(self, document: Document) -> str:
        """Convert the characters; a text without Chinese ones stays as it is."""
        if HAN.search(document.text):
            document.text = _converter(self.config).convert(well_formed(document.text))
        return ""


class HalfWidth(Rule, frozen=True):
    """Turn full-width ASCII letters and digits into half-width ones."""

    punctuation: bool = False
    """Turn full-width punctuation too, which Chinese text uses rightly."""

    def apply(self, document: Document) -> str:
        """Turn full-width letters and digits, and punctuation where asked, into ASCII."""
        if _FULL_WIDTH.search(document.text):
            document.text = document.text.translate(_ALL if self.punctuation else _LETTERS)
        return ""


class ChineseLines(Rule, frozen=True):
    """Drop lines of Chinese pages that are no sentences, and reject a page of which little remains.

    Source: Chinese-C4 (shjwudp/c4-dataset-script, `filter_out_bad_lines.py`); `min_han` is MNBVC's.
    """

    min_line_characters: Count = 5
    """Drop shorter lines (Chinese-C4)."""
    max_line_characters: Positive = 500
    """Drop longer lines (Chinese-C4); books and papers have longer paragraphs."""
    sentence_end: bool = True
    """Drop lines that do not end as a sentence does, with one of 。！？……”： (Chinese-C4)."""
    cut_unfinished: bool = False
    """Where a line has an end of a sentence inside, keep it up to there instead of dropping it (MNBVC)."""
    min_han: Count = 0
    """Drop lines with fewer Chinese characters (MNBVC: 10)."""
    min_lines: Count = 6
    """Reject where fewer lines remain (Chinese-C4 keeps more than 5)."""

    def apply(self, document: Document) -> str:
        """Keep the lines that are sentences, stripped. Reason: `chinese_lines`."""
        kept = []
        for line in document.text.splitlines():
            line = line.strip()
            if self.sentence_end and not line.endswith(tuple(_SENTENCE_ENDS)):
                finished = _UNFINISHED.sub("", line) if self.cut_unfinished else line
                if finished == line:
                    continue
                line = finished
            if not self.min_line_characters <= len(line) <= self.max_line_characters or _GARBLED.search(line):
                continue
            if self.min_han and count_han(line) < self.min_han:
                continue
            kept.append(line)
        if len(kept) < self.min_lines:
            return "chinese_lines"
        document.text = "\n".join(kept)
        return ""


class ChineseQuality(Rule, frozen=True):
    """Judge Chinese text by its characters. Source: EvalWeb (ChineseWebText, arXiv 2311.01149), where not said else."""

    min_characters: Count = 201
    """Reject shorter texts (EvalWeb keeps more than 200)."""
    min_mean_line_characters: Amount = 10.0
    """Reject texts with shorter lines on average, the blank ones counted (EvalWeb: 10)."""
    min_han_fraction: Fraction = 0.3
    """Reject a smaller share of Chinese characters in all characters (EvalWeb: 0.3; MNBVC: 0.7)."""
    min_punctuation_fraction: Fraction = 0.01
    """Reject a smaller share of punctuation, as in lists of keywords (ours)."""
    max_punctuation_fraction: Fraction = 0.35
    """Reject a larger share of punctuation (ours)."""
    min_stop_characters: Count = 2
    """Reject fewer different ones of the common characters 的一是了不在有和人这 (ours, after Gopher's stop words)."""

    def apply(self, document: Document) -> str:
        """Reasons: `chinese_length`, `chinese_line_length`, `han_fraction`, `chinese_punctuation`,
        `stop_characters`.
        """
        text = document.text
        length = len(text)
        if length < self.min_characters:
            return "chinese_length"
        if length < self.min_mean_line_characters * (text.count("\n") + 1):
            return "chinese_line_length"
        if document.derive(count_han) < self.min_han_fraction * length:
            return "han_fraction"
        marks = len(_PUNCTUATION.findall(text))
        if not self.min_punctuation_fraction * length <= marks <= self.max_punctuation_fraction * length:
            return "chinese_punctuation"
        found = sum(
            character in text or _STOP_CHARACTERS_TRADITIONAL.get(character, character) in text
            for character in _STOP_CHARACTERS
        )
        return "stop_characters" if found < self.min_stop_characters else ""


def repeated_fraction(text: str, ngram_characters: int) -> float:
    """Share of the runs of characters, white space left out and lower-cased, that occur more than once; 0..1."""
    import numpy as np

    from pipelines.stages.corpus.rules.ngrams import rolling_hashes

    dense = "".join(text.lower().split()).encode("utf-32-le", "surrogatepass")
    for _, runs in rolling_hashes(np.frombuffer(dense, np.uint32), (ngram_characters,)):
        counts = np.unique(runs, return_counts=True)[1]
        return float(counts[counts > 1].sum() / len(runs))
    return 0.0


class ChineseRepetition(Rule, frozen=True):
    """Reject text that repeats itself: the share of runs of characters that occur more than once (EvalWeb)."""

    ngram_characters: Annotated[int, Meta(ge=2, le=100)] = 13
    """Characters in a run, white space left out (EvalWeb: 13)."""
    max_fraction: Fraction = 0.5
    """Reject a larger share (EvalWeb: 0.5)."""

    def apply(self, document: Document) -> str:
        """Reason: `chinese_repetition`."""
        repeated = repeated_fraction(document.text, self.ngram_characters)
        return "chinese_repetition" if repeated > self.max_fraction else ""
