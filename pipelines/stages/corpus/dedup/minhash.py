"""MinHash signatures of texts: documents that share a band's hash are candidates for near-duplicates.

Broder 1997 (MinHash); Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", ch. 3 (banding): of pairs of Jaccard
similarity s, 1 - (1 - s^rows)^bands become candidates. A permutation is x -> a x + b mod 2^32 with an odd a, over the
upper halves of 64-bit hashes: the inputs are hashes already, so that it needs no mixing of its own, and 32 bits let
numpy use the processor's vector units.
"""

from __future__ import annotations

import functools
import re

import numpy as np
import numpy.typing as npt
import xxhash

from pipelines.stages.corpus.dedup.spec import MinHash

Hashes = npt.NDArray[np.uint64]

# Scripts without blanks between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han, halfwidth katakana.
_NO_BLANKS = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_NO_BLANK = re.compile(f"[{_NO_BLANKS}]")
_WORD = re.compile(rf"[{_NO_BLANKS}]|[^\W{_NO_BLANKS}]+")
_LINE_END = re.compile(r"\r\n|\r|\n")
_BREAK = re.compile(r"[^\x00-\x7f\w]+")
# UTF-8 to words: ASCII letters in lower case, digits and `_` stay, the rest of ASCII becomes blanks.
_TO_WORDS = bytes(ord(chr(c).lower()) if chr(c).isalnum() or c == ord("_") else 32 for c in range(128))
_TO_WORDS += bytes(range(128, 256))
_STEP = np.uint64(0x9E3779B97F4A7C17)  # odd; each word of a run is multiplied by another power of it
_CACHED_WORDS = 1 << 18
_BLOCK = 256  # shingles permuted at a time: with 112 permutations 112 KiB, which a core's own cache holds


class _WordHashes(dict[bytes, int]):
    """Hashes of words: a few thousand words make up most of any text."""

    def __missing__(self, word: bytes) -> int:
        if len(self) >= _CACHED_WORDS:
            self.clear()
        value = self[word] = xxhash.xxh3_64_intdigest(word)
        return value


_word_hashes = _WordHashes()


def split_words(text: str) -> list[bytes]:
    r"""The words (runs of `\w`) in lower case, as UTF-8; in scripts without blanks every character is a word."""
    if not text.isascii():
        text = text.lower()
        if _NO_BLANK.search(text):
            return [word.encode() for word in _WORD.findall(text)]
        text = _BREAK.sub(" ", text)
    return text.encode().translate(_TO_WORDS).split()


def shingles(text: str, words: int) -> Hashes:
    """The distinct hashes of all runs of `words` words, sorted, shape (n,), n >= 1.

    A text of fewer words is one run; one without any word is a run of its own, so that it is like its copies only.
    """
    found = split_words(text)
    if not found:
        return np.array([xxhash.xxh3_64_intdigest(_encode(text), seed=1)], dtype=np.uint64)
    hashes = np.fromiter(map(_word_hashes.__getitem__, found), dtype=np.uint64, count=len(found))
    length = min(words, len(found))
    count = len(found) - length + 1
    runs = hashes[:count].copy()
    for offset in range(1, length):
        runs *= _STEP
        runs += hashes[offset : offset + count]
    runs.sort()
    distinct = np.ones(count, dtype=np.bool_)
    np.not_equal(runs[1:], runs[:-1], out=distinct[1:])
    return runs[distinct]


@functools.cache
def _permutations(count: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    # Fixed, and a prefix for every count: signatures of different corpora must be comparable.
    drawn = np.random.Generator(np.random.PCG64(0x7121)).integers(0, 1 << 32, (count, 2), dtype=np.uint32)
    return drawn[:, 0] | np.uint32(1), np.ascontiguousarray(drawn[:, 1])


def signature(hashes: Hashes, config: MinHash) -> Hashes:
    """One hash a band, shape (bands,), of a set of hashes, shape (n,), n >= 1.

    The band's number is part of its hash: two equal hashes mean the same band.
    """
    multiply, add = _permutations(config.bands * config.rows)
    upper = (hashes >> np.uint64(32)).astype(np.uint32)
    smallest = np.full(len(multiply), np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(upper), _BLOCK):
        permuted = upper[start : start + _BLOCK, None] * multiply
        permuted += add
        np.minimum(smallest, permuted.min(axis=0), out=smallest)
    data, width = smallest.astype("<u4").tobytes(), 4 * config.rows
    bands = (xxhash.xxh3_64_intdigest(data[i * width : (i + 1) * width], seed=i) for i in range(config.bands))
    return np.fromiter(bands, dtype=np.uint64, count=config.bands)


def content_key(text: str) -> tuple[int, int]:
    """Upper and lower 64 bits of the XXH3 hash of the text, equal for exact duplicates.

    Not looked at are how lines end, blanks at their ends, and empty lines at the end of the text. Indentation is: in
    Python it makes another program.
    """
    lines = "\n".join(line.rstrip() for line in _LINE_END.split(text)).rstrip("\n")
    value = xxhash.xxh3_128_intdigest(_encode(lines))
    return value >> 64, value & 0xFFFFFFFFFFFFFFFF


def jaccard(a: Hashes, b: Hashes) -> float:
    """Size of the intersection over size of the union of two sets of distinct hashes, neither of them empty."""
    common = np.intersect1d(a, b, assume_unique=True).size
    return common / (a.size + b.size - common)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
