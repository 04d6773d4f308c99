"""Rules for Chinese text, counted in characters, since there are no blanks between words.

Sources: EvalWeb (ChineseWebText, arXiv 2311.01149, `preprocess.py`), Chinese-C4 (shjwudp/c4-dataset-script), MNBVC's
list of cleaning steps, WuDaoCorpora; the fields of the specs say which. EvalWeb leaves out the last run of a text when
it counts repetition; here it counts.
"""

from __future__ import annotations

import functools
import re

import numpy as np
import opencc

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.cleaners import (
    ChineseLines,
    ChineseQuality,
    ChineseRepetition,
    ConvertChinese,
    HalfWidth,
)
from pipelines.stages.corpus.rules.ngrams import rolling_hashes
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
def _converter(config: str) -> opencc.OpenCC:
    return opencc.OpenCC(config)


def convert(document: Document, config: ConvertChinese) -> str:
    """Convert the characters; a text without Chinese ones stays as it is."""
    if HAN.search(document.text):
        document.text = _converter(config.config).convert(well_formed(document.text))
    return ""


def half_width(document: Document, config: HalfWidth) -> str:
    """Turn full-width letters and digits, and punctuation where asked, into ASCII."""
    if _FULL_WIDTH.search(document.text):
        document.text = document.text.translate(_ALL if config.punctuation else _LETTERS)
    return ""


def lines(document: Document, config: ChineseLines) -> str:
    """Keep the lines that are sentences, stripped. Reason: `chinese_lines`."""
    kept = []
    for line in document.text.splitlines():
        line = line.strip()
        if config.sentence_end and not line.endswith(tuple(_SENTENCE_ENDS)):
            finished = _UNFINISHED.sub("", line) if config.cut_unfinished else line
            if finished == line:
                continue
            line = finished
        if not config.min_line_characters <= len(line) <= config.max_line_characters or _GARBLED.search(line):
            continue
        if config.min_han and count_han(line) < config.min_han:
            continue
        kept.append(line)
    if len(kept) < config.min_lines:
        return "chinese_lines"
    document.text = "\n".join(kept)
    return ""


def quality(document: Document, config: ChineseQuality) -> str:
    """Reasons: `chinese_length`, `chinese_line_length`, `han_fraction`, `chinese_punctuation`, `stop_characters`."""
    text = document.text
    length = len(text)
    if length < config.min_characters:
        return "chinese_length"
    if length < config.min_mean_line_characters * (text.count("\n") + 1):
        return "chinese_line_length"
    if document.derive(count_han) < config.min_han_fraction * length:
        return "han_fraction"
    marks = len(_PUNCTUATION.findall(text))
    if not config.min_punctuation_fraction * length <= marks <= config.max_punctuation_fraction * length:
        return "chinese_punctuation"
    found = sum(
        character in text or _STOP_CHARACTERS_TRADITIONAL.get(character, character) in text
        for character in _STOP_CHARACTERS
    )
    return "stop_characters" if found < config.min_stop_characters else ""


def repeated_fraction(text: str, ngram_characters: int) -> float:
    """Share of the runs of characters, white space left out and lower-cased, that occur more than once; 0..1."""
    dense = "".join(text.lower().split()).encode("utf-32-le", "surrogatepass")
    for _, runs in rolling_hashes(np.frombuffer(dense, np.uint32), (ngram_characters,)):
        counts = np.unique(runs, return_counts=True)[1]
        return float(counts[counts > 1].sum() / len(runs))
    return 0.0


def repetition(document: Document, config: ChineseRepetition) -> str:
    """Reason: `chinese_repetition`."""
    repeated = repeated_fraction(document.text, config.ngram_characters)
    return "chinese_repetition" if repeated > config.max_fraction else ""
