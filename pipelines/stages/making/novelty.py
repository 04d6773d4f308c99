"""Whether a text is like one that is there already: ROUGE-L (Lin 2004) against all of them, at speed.

Self-Instruct (Wang et al. 2022, arXiv:2212.10560, section 2.2) keeps an instruction whose ROUGE-L with every other is
below 0.7, and computes all of them. Here each text is cut into words once; an index of words leaves the few that could
reach the threshold: of n words a text must share F (n + m) / 2 with one of m, so that among the rarest of its words,
as many as may be missing and one more, there is one that both have. Of those the longest common subsequence is taken by
words of bits (Hyyro 2004), a few operations each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

# As rouge-score cuts English; every character of Chinese, Japanese and the like, and words of other letters, besides.
SINGLE = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[a-z0-9]+|[{SINGLE}]|[^\W_a-z0-9{SINGLE}]+")

Element = tuple[str, int]  # a word, and the how manieth of its kind in a text


def words(text: str) -> list[str]:
    """The words that texts are compared by, in lower case."""
    return WORD.findall(text.lower())


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """The F measure of ROUGE-L of two lists of words, from 0 to 1; 0 where one is empty."""
    return 2 * common(a, b) / (len(a) + len(b)) if a and b else 0.0


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    places: dict[str, int] = {}
    for position, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << position
    full = (1 << len(a)) - 1
    row = full  # a zero for each position at which the length grows
    for word in b:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & full
    return len(a) - row.bit_count()


class Novelty:
    """Texts, and a quick answer to whether another reaches `threshold` with any of them."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[list[str]] = []
        self._elements: list[frozenset[Element]] = []
        self._with: dict[Element, list[int]] = {}

    def add(self, text: str) -> None:
        cut = words(text)
        elements = _elements(cut)
        for element in elements:
            self._with.setdefault(element, []).append(len(self._texts))
        self._texts.append(cut)
        self._elements.append(frozenset(elements))

    def nearest(self, text: str) -> tuple[float, int] | None:
        """The highest ROUGE-L that reaches the threshold, and the number of its text; None where none does."""
        cut = words(text)
        best = None
        for number in sorted(self._candidates(cut)):
            other = self._texts[number]
            if (score := rouge_l(cut, other)) >= self._threshold and (best is None or score > best[0]):
                best = (score, number)
        return best

    def _candidates(self, cut: list[str]) -> set[int]:
        """All that could reach the threshold, and few more."""
        shortest = self._shortest(len(cut))
        needed = math.ceil(self._threshold * (len(cut) + shortest) / 2 - 1e-9)
        missing = len(cut) - max(1, needed)
        own = frozenset(_elements(cut))
        rarest = sorted(own, key=lambda element: len(self._with.get(element, ())))[: missing + 1]
        found = {number for element in rarest for number in self._with.get(element, ())}
        return {number for number in found if self._shared_enough(own, len(cut), number)}

    def _shared_enough(self, own: frozenset[Element], length: int, number: int) -> bool:
        """Whether two texts share as many words, in whatever order, as they would have to in the same one."""
        other = self._elements[number]
        needed = self._threshold * (length + len(other)) / 2 - 1e-9
        return len(other) >= needed and len(own & other) >= needed

    def _shortest(self, length: int) -> int:
        """Words that a text must have for its F to reach the threshold: F is at most 2 m / (n + m)."""
        return math.ceil(length * self._threshold / (2 - self._threshold) - 1e-9)


def _elements(cut: list[str]) -> list[Element]:
    counted: Counter[str] = Counter()
    elements = []
    for word in cut:
        elements.append((word, counted[word]))
        counted[word] += 1
    return elements
