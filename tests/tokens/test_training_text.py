"""Training takes time that grows with the text and not with its longest word."""

from __future__ import annotations

from random import Random

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.tokens.tokenizers import sentencepiece_model
from pipelines.stages.tokens.tokenizers.pieces import learn
from pipelines.stages.tokens.tokenizers.tokenizer import END_OF_TEXT, train, train_wordpiece
from pipelines.stages.tokens.tokenizers.training_text import BETWEEN_BLANKS, BYTE_LEVEL, LONGEST, cut

pytestmark = pytest.mark.heavy

RNG = Random(0)
RUNS = {
    "letters": "Z" * 1_000_000,
    "genome": "".join(RNG.choices("ACGT", k=300_000)),
    "base64": "".join(RNG.choices("ABCDabcd0123+/", k=300_000)),
    "blanks": "a" + " " * 1_000_000 + "b",
    "line ends": "a" + "\n" * 1_000_000 + "b",
    "digits": "".join(RNG.choices("0123456789", k=300_000)),
    "a rule": "=-" * 500_000,
    "Han": "".join(chr(0x4E00 + RNG.randrange(200)) for _ in range(100_000)),
}
WORDS = "some words to train on, and a few more of them for good measure. " * 200


@pytest.mark.timeout(300)  # cut, it takes seconds; whole, some of these would take hours
@pytest.mark.parametrize("name", RUNS)
def test_a_long_run_is_trained_on_in_seconds(name: str) -> None:
    texts = [RUNS[name], WORDS]
    first, again = (train(iter(texts), 300).to_str() for _ in range(2))
    assert first == again
    train_wordpiece(lambda: iter(texts), 400)
    size = 600 if name in ("genome", "base64", "Han") else 340
    sentencepiece_model.train(texts, size, "bpe", end_of_text=END_OF_TEXT)
    learn(lambda: iter(texts), train(iter([WORDS]), 270), "", 5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["letters", "blanks", "a rule"])
def test_unigram_too(name: str) -> None:
    sentencepiece_model.train([RUNS[name], WORDS], 320, "unigram", end_of_text=END_OF_TEXT, or_fewer=True)


TEXTS = st.text(st.sampled_from("aZ1 \n=#é文"), max_size=30).flatmap(lambda text: st.integers(0, 60).map(text.__mul__))


@given(st.lists(TEXTS, max_size=3), st.sampled_from([BYTE_LEVEL, BETWEEN_BLANKS]))
def test_parts_are_the_text_and_no_run_in_them_is_longer(texts: list[str], kinds: tuple[str, ...]) -> None:
    parts = list(cut(texts, ("###", "aZ"), kinds))
    assert "".join(parts) == "".join(texts)
    for part in parts:
        assert "###" not in part and "aZ" not in part
        assert all(len(run) <= LONGEST for kind in kinds for run in regex.findall(f"{kind}+", part))


def test_what_is_short_is_not_cut() -> None:
    assert list(cut([WORDS])) == [WORDS]
    assert list(cut(["x" * LONGEST, "", "x" * (LONGEST + 1)])) == ["x" * LONGEST, "", "x" * LONGEST, "x"]
