"""The units that rules count: words, lines, paragraphs and sentences of a text, for `document.derive(...)`.

Words are spaCy's English tokens without whitespace ones, which datatrove counts too. A text holds the same few runs of
characters over and over, so each run is split once and remembered: many times the speed at the same result.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TypeVar

from pipelines.stages.corpus.rules.english import split_run

REMEMBERED = 1 << 17  # strings, of some hundred bytes each with their values
SHORT_CHARACTERS = 64  # longer strings hardly ever come again
# Marks that end a sentence in some script: Unicode's Sentence_Terminal and the like, as FineWeb has them.
TERMINAL_MARKS = (
    ".?!։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟\u1b7d\u1b7e᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼\u2e53\u2e54。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡"
    "𐩖𐩗𐽕𐽖𐽗𐽘𐽙\U00010f86\U00010f87\U00010f88\U00010f89𑁇𑁈𑂾𑂿𑃀𑃁𑅁𑅂𑅃𑇅𑇆𑇍𑇞𑇟𑈸𑈹𑈻𑈼𑊩𑑋𑑌𑗂𑗃𑗉𑗊𑗋𑗌𑗍𑗎𑗏𑗐𑗑𑗒𑗓𑗔𑗕𑗖𑗗"
    "𑙁𑙂𑜼𑜽𑜾𑥄𑥆𑩂𑩃𑪛𑪜𑱁𑱂𑻷𑻸\U00011f43\U00011f44𖩮𖩯𖫵𖬷𖬸𖭄𖺘𛲟𝪈"
)
# Marks that are no words when words are measured: the list of CCNet, which datatrove took over, and the above.
MARKS = frozenset(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
    + "".join(chr(c) for c in range(160) if unicodedata.category(chr(c)) == "Cc" and c not in (9, 10))
    + TERMINAL_MARKS
)

T = TypeVar("T")


class Remembered(dict[str, T]):
    """A function of strings that remembers what it was asked last: `memory[string]`."""

    def __init__(self, function: Callable[[str], T]) -> None:
        super().__init__()
        self._function = function
        self._older: dict[str, T] = {}

    def __missing__(self, string: str) -> T:
        value = self._older[string] if string in self._older else self._function(string)
        if len(string) <= SHORT_CHARACTERS:
            if len(self) >= REMEMBERED:  # what is not asked for again by the next time is forgotten
                self._older = dict(self)
                self.clear()
            self[string] = value
        return value


def _is_mark(word: str) -> bool:
    return MARKS.issuperset(word)


def _sentence_parts(run: str) -> str:
    """A run between single blanks as marks that end a sentence (`.`) and words (`w`); other punctuation is neither."""
    parts = ""
    for word in chain.from_iterable(
        split_run(part) if part.strip() else [part] for part in re.findall(r"\s+|\S+", run)
    ):
        if word in TERMINAL_MARKS:
            parts += "."
        elif not all(unicodedata.category(character).startswith("P") for character in word):
            parts += "w"
    return parts or ("" if run else "w")  # a second blank stands for a word, as with spaCy


_words = Remembered(split_run)
_characters = Remembered(lambda word: 0 if _is_mark(word) else len(word))
_alphabetic = Remembered(lambda word: any(map(str.isalpha, word)))
_parts = Remembered(_sentence_parts)


def words(text: str) -> list[str]:
    """The words of a text, punctuation marks among them."""
    return list(chain.from_iterable(map(_words.__getitem__, text.split())))


def characters(words: Iterable[str]) -> list[int]:
    """Characters of each word, 0 for one that is punctuation only."""
    return list(map(_characters.__getitem__, words))


def alphabetic(words: Iterable[str]) -> int:
    """How many of the words hold a letter."""
    return sum(map(_alphabetic.__getitem__, words))


def lines(text: str) -> list[str]:
    """The lines of a text, split at every kind of line break, empty ones included."""
    return text.splitlines()


def sentence_count(line: str) -> int:
    """Sentences of a line that is not empty, as spaCy's `sentencizer` counts them: a new one begins with the first word
    after a mark that ends sentences, and marks that belong to a word (`Mr.`, `3.5`) end none."""
    return "".join(map(_parts.__getitem__, line.split(" "))).count(".w") + 1


def repeated(parts: list[str]) -> tuple[int, int]:
    """How many of the parts stood before already, and their characters."""
    distinct = set(parts)
    if len(distinct) == len(parts):
        return 0, 0
    return len(parts) - len(distinct), sum(map(len, parts)) - sum(map(len, distinct))


def share(part: int, whole: int) -> float:
    """A part of a whole, 0 where there is no whole."""
    return part / whole if whole else 0.0
