"""The n-gram baseline against its formula, written with dictionaries."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.evaluation.ngram import ngram_bits_per_byte


def naive_bits_per_byte(train: list[bytes], heldout: list[bytes], order: int) -> float:
    follow: dict[tuple[int, bytes], Counter[int]] = defaultdict(Counter)
    for document in train:
        for i, byte in enumerate(document):
            for k in range(min(i, order - 1) + 1):
                follow[k, document[i - k : i]][byte] += 1
    bits = 0.0
    for document in heldout:
        for i, byte in enumerate(document):
            p = 1 / 256
            for k in range(min(i, order - 1) + 1):
                if seen := follow.get((k, document[i - k : i])):
                    p = (seen[byte] + len(seen) * p) / (seen.total() + len(seen))
            bits -= math.log2(p)
    return bits / sum(len(document) for document in heldout)


documents = st.lists(st.binary(max_size=40) | st.text("ab ", max_size=40).map(str.encode), min_size=1, max_size=6)


@given(train=documents.filter(any), heldout=documents.filter(any), order=st.integers(1, 8))
def test_equals_the_formula(train: list[bytes], heldout: list[bytes], order: int) -> None:
    expected = naive_bits_per_byte(train, heldout, order)
    assert ngram_bits_per_byte(train, heldout, order) == pytest.approx(expected, rel=1e-12)


def test_refuses_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="empty"):
        ngram_bits_per_byte([b""], [b"text"])
    with pytest.raises(ValueError, match="order 9"):
        ngram_bits_per_byte([b"text"], [b"text"], order=9)
