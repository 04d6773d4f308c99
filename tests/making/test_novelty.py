"""ROUGE-L at speed: the values of rouge-score, and no twin missed."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.making.novelty import Novelty, rouge_l, words

pytest.importorskip("rouge_score")

from rouge_score.rouge_scorer import RougeScorer

SCORER = RougeScorer(["rougeL"])
WORDS = ["a", "list", "of", "the", "few", "words", "that", "are", "here,", "twice!", "7", "Ab"]
texts = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)


@given(texts, texts)
def test_the_value_is_rouge_scores(a: str, b: str) -> None:
    assert rouge_l(words(a), words(b)) == pytest.approx(SCORER.score(a, b)["rougeL"].fmeasure, abs=1e-12)


@given(st.text(alphabet="aB1 ,.-\n'İßſK_", max_size=30))
def test_english_is_cut_as_rouge_score_cuts_it(text: str) -> None:
    ours = [word for word in words(text) if word.isascii()]
    if text.isascii():
        assert ours == SCORER._tokenizer.tokenize(text)


def test_other_scripts_have_words_too() -> None:
    assert words("肝癌的Drugs有3种") == ["肝", "癌", "的", "drugs", "有", "3", "种"]
    assert words("Привет, мир") == ["привет", "мир"]


@given(st.lists(texts, max_size=12), texts, st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
def test_the_nearest_is_that_of_a_search_through_all(known: list[str], text: str, threshold: float) -> None:
    novelty = Novelty(threshold)
    for other in known:
        novelty.add(other)
    scores = [rouge_l(words(text), words(other)) for other in known]
    best = max(scores, default=0.0)
    found = novelty.nearest(text)
    if best < threshold:
        assert found is None
    else:
        assert found is not None and found[0] == best == scores[found[1]]


@pytest.mark.heavy
def test_many_are_compared_in_no_time() -> None:
    """5,000 instructions against each other: the published code takes 12 million subsequences for it."""
    draw = random.Random(0)
    vocabulary = [f"w{number}" for number in range(5000)]
    weights = [1 / (rank + 1) for rank in range(5000)]  # as words are: few of them everywhere
    made = [" ".join(draw.choices(vocabulary, weights, k=draw.randint(6, 25))) for _ in range(5_000)]
    made += made[::100]
    novelty, twins = Novelty(0.7), 0
    clock = time.process_time()
    for text in made:
        if novelty.nearest(text):
            twins += 1
        else:
            novelty.add(text)
    seconds = time.process_time() - clock
    assert twins >= 50
    assert seconds < 40, f"{seconds:.1f} s"
