"""MinHash: words and shingles by hand, and the S-curve, which says whether the permutations are good enough."""

from __future__ import annotations

import gzip
import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.specs import MinHash
from pipelines.stages.corpus.dedup.minhash import Hashes, content_key, jaccard, shingles, signature, split_words
from tests.conftest import SHARED_DATA

PAIRS = 400
LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
CONFIGS = [MinHash(), MinHash(bands=20, rows=5), MinHash(bands=9, rows=13)]


def candidate(a: Hashes, b: Hashes, config: MinHash) -> bool:
    return bool((signature(a, config) == signature(b, config)).any())


def probability(similarity: float, config: MinHash) -> float:
    return float(1 - (1 - similarity**config.rows) ** config.bands)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat's 2 hats, THE_END", "the cat s 2 hats the_end"),
        ("“Crème—brûlée…” ÉTÉ", "crème brûlée été"),
        ("大模型 on GPUs", "大 模 型 on gpus"),
        ("カタカナとABCひら", "カ タ カ ナ と abc ひ ら"),
        ("กขค two", "ก ข ค two"),
        ("한국어 문장", "한국어 문장"),
        (" \n--", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert split_words(text) == [word.encode() for word in words.split()]


@given(st.text(st.characters(max_codepoint=0x24F)))
def test_words_are_runs_of_word_characters(text: str) -> None:
    assert split_words(text) == [word.encode() for word in re.findall(r"\w+", text.lower())]


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30), st.integers(1, 6))
def test_shingles_are_the_distinct_runs_of_words(words: list[str], length: int) -> None:
    runs = {tuple(words[i : i + length]) for i in range(max(1, len(words) - length + 1))}
    found = shingles(" ".join(words), length)
    assert len(found) == len(runs)
    assert (np.diff(found.astype(object)) > 0).all()


def test_shingles_depend_on_the_order_of_words_only() -> None:
    assert jaccard(shingles("one two three, FOUR", 3), shingles("One\ntwo (three) four", 3)) == 1
    assert jaccard(shingles("a b c", 3), shingles("c b a", 3)) == 0
    assert jaccard(shingles("a b", 1), shingles("b c", 1)) == pytest.approx(1 / 3)


def test_texts_without_words_are_like_their_copies_only() -> None:
    assert jaccard(shingles("!!!", 5), shingles("!!!", 5)) == 1
    assert jaccard(shingles("!!!", 5), shingles("???", 5)) == 0
    assert len(shingles("", 5)) == 1


LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)))


@given(st.lists(LINES), st.sampled_from(["\n", "\r\n", "\r", " \n", "\t \r\n"]), st.text(" \n\t\u3000"))
def test_content_key_ignores_how_lines_and_texts_end(lines: list[str], end: str, last: str) -> None:
    text = "\n".join(lines)
    assert content_key(text) == content_key(end.join(lines) + last)
    assert content_key(text) != content_key(text + ".")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("if x:\n    a()\nb()\n", "if x:\n    a()\n    b()\n", False),  # another program
        ("a\n\tb", "a\n    b", False),
        ("ab", "a b", False),
        ("a b", "a  b", False),
        (" a", "a", False),
        ("a\n\nb", "a\nb", False),
        ("a\nb", "a b", False),
        ("a\r\nb\r\n", "a\nb", True),
        ("a  \nb\t\n\n \n", "a\nb", True),
        ("a\rb", "a\nb", True),
    ],
)
def test_copies_are_copies(one: str, other: str, same: bool) -> None:
    assert (content_key(one) == content_key(other)) == same


def test_signature_of_a_longer_text_than_a_block_is_the_least_of_its_parts() -> None:
    config = MinHash(bands=64, rows=1)
    hashes = np.random.default_rng(3).integers(0, 1 << 64, 2000, dtype=np.uint64)
    whole, parts = signature(hashes, config), [signature(part, config) for part in np.split(hashes, 5)]
    assert all(whole[i] in {part[i] for part in parts} for i in range(64))
    assert len(set(whole.tolist())) == 64  # equal minima in different bands would still differ


def test_signatures_never_change() -> None:
    # Indexes of older corpora are read by newer code: what this asserts is a format.
    text = "The quick brown fox jumps over the lazy dog, and 大模型 runs."
    found = signature(shingles(text, 5), MinHash(bands=2, rows=3))
    assert found.tolist() == [12187485441345125535, 15652807378034775153]
    assert content_key(text) == (10856279703682000176, 4099222080552459241)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.bands}x{c.rows}")
def test_s_curve_of_texts(config: MinHash) -> None:
    """Pairs of texts of exactly that similarity become candidates as often as 1 - (1 - s^rows)^bands says."""
    rng = np.random.default_rng(20)
    for level in LEVELS:
        common = round(200 * level)  # of 200 shingles in the union
        alone = (200 - common) // 2
        found = 0
        for _ in range(PAIRS):
            words = [f"{n:x}" for n in rng.integers(0, 1 << 50, common + 4 + 2 * alone)]
            start = words[: common + 4]
            a = shingles(" ".join(start + words[common + 4 :][:alone]), 5)
            b = shingles(" ".join(start + words[common + 4 + alone :]), 5)
            assert jaccard(a, b) == level
            found += candidate(a, b, config)
        expected = probability(level, config)
        assert abs(found - PAIRS * expected) <= 4 * np.sqrt(PAIRS * expected * (1 - expected)) + 1, (level, found)


@pytest.mark.parametrize("union", [20, 5000])
def test_s_curve_of_short_and_long_texts(union: int) -> None:
    rng = np.random.default_rng(21)
    config = MinHash(bands=6, rows=4)
    for level in (0.3, 0.6, 0.8):
        common = round(union * level)
        found = 0
        for _ in range(PAIRS):
            hashes = rng.integers(0, 1 << 64, union, dtype=np.uint64)
            middle = common + (union - common) // 2
            found += candidate(hashes[:middle], np.concatenate([hashes[:common], hashes[middle:]]), config)
        expected = probability(level, config)
        assert abs(found - PAIRS * expected) <= 4 * np.sqrt(PAIRS * expected * (1 - expected)) + 1, (level, found)


def test_candidates_among_real_files_follow_their_exact_similarity() -> None:
    path = SHARED_DATA / "code" / "local_python" / "file-000000000000.json.gz"
    if not path.exists():
        pytest.skip(f"no {path.name} in the shared data")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        contents = (json.loads(line)["content"] for line in file)
        texts = list(itertools.islice((text for text in contents if len(text) < 6000), 200))
    config = MinHash(bands=20, rows=3)
    sets = [shingles(text, config.shingle_words) for text in texts]
    bands = [signature(hashes, config) for hashes in sets]
    expected = variance = found = 0.0
    for i, j in itertools.combinations(range(len(sets)), 2):
        p = probability(jaccard(sets[i], sets[j]), config)
        expected, variance = expected + p, variance + p * (1 - p)
        found += bool((bands[i] == bands[j]).any())
    assert expected > 50
    assert abs(found - expected) <= 4 * np.sqrt(variance) + 1
