"""ROUGE and BLEU by hand and against the libraries' own corpus scores; Chinese by characters and by words."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from pipelines.stages.evaluation.results import Result, aggregate

pytest.importorskip("rouge_score")
pytest.importorskip("sacrebleu")
pytest.importorskip("jieba")

pytest.importorskip("rouge_chinese")

import jieba
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge
from sacrebleu.metrics.bleu import BLEU

from pipelines.stages.evaluation.overlap import score
from tests.conftest import SHARED_DATA

CHATGLM_METRICS = ("chatglm_rouge1", "chatglm_rouge2", "chatglm_rougeL", "chatglm_bleu4")

ANSWERS = ["the cat sat on the mat", "a dog", "it rains in Spain today"]
REFERENCES = ["the cat lay on the mat", "a dog barked at the dog", "it rains in Spain today"]


def scored(answers: list[str], references: list[str], language: str = "english") -> dict[str, Result]:
    ids = [str(number) for number in range(len(answers))]
    results, outcomes = score(answers, references, ids, language=language, task="t", seed=0)
    for result in results:
        own = [outcome for outcome in outcomes if outcome.metric == result.metric]
        assert len(own) == (len(answers) if result.aggregation else 0)
        if own:
            values, weights = [o.value for o in own], [o.weight for o in own]
            assert aggregate(result.aggregation, values, weights) == pytest.approx(result.value)
    return {result.metric: result for result in results}


def test_rouge_by_hand() -> None:
    """5 of 6 words and 3 of 5 pairs are shared; of the second, 2 words of 2 and of 6, 1 pair of 1 and of 5."""
    found = scored(ANSWERS, REFERENCES)
    assert found["rouge1"].value == pytest.approx((5 / 6 + 2 * 1 * (1 / 3) / (1 + 1 / 3) + 1) / 3)
    assert found["rouge2"].value == pytest.approx((3 / 5 + 2 * 1 * (1 / 5) / (1 + 1 / 5) + 1) / 3)
    assert found["rougeL"].value == pytest.approx((5 / 6 + 1 / 2 + 1) / 3)


def test_bleu_is_sacrebleus() -> None:
    found = scored(ANSWERS, REFERENCES)
    assert found["bleu4"].value * 100 == pytest.approx(BLEU().corpus_score(ANSWERS, [REFERENCES]).score)
    assert scored(["a b c d e"], ["a b c d e"])["bleu4"].value == pytest.approx(1)


def test_sentence_bleu_by_hand() -> None:
    """6 words: 5 of 6, 3 of 5, 1 of 4 and 0 of 3 n-grams; method 3 takes 1/2 for the 0: 1/(2 * 3)."""
    found = scored(ANSWERS[:1], REFERENCES[:1])["bleu4_sentence"]
    assert found.value == pytest.approx(math.exp(sum(map(math.log, (5 / 6, 3 / 5, 1 / 4, 1 / 6))) / 4))


def test_chinese_by_characters_and_by_words() -> None:
    """自然语言|处理|是|方向 against 自然语言|是|方向: 7 of 9 and of 7 characters, 3 of 4 and of 3 words."""
    answers, references = ["自然语言处理是方向"], ["自然语言是方向"]
    found = scored(answers, references, "chinese")
    assert found["rouge1_characters"].value == pytest.approx(2 * (7 / 9) / (1 + 7 / 9))
    cut = [jieba.lcut(text) for text in (answers[0], references[0])]
    shared = len(set(cut[0]) & set(cut[1]))
    precision, recall = shared / len(cut[0]), shared / len(cut[1])
    assert found["rouge1_words"].value == pytest.approx(2 * precision * recall / (precision + recall))
    expected = BLEU(tokenize="char").corpus_score(answers, [references]).score
    assert found["bleu4_characters"].value * 100 == pytest.approx(expected)
    assert found["bleu4_words"].value < found["bleu4_characters"].value


def published(preds: list[str], labels: list[str]) -> dict[str, float]:
    """`compute_metrics` of ChatGLM-6B, ptuning/main.py, as far as it takes texts; in percent."""
    score_dict: dict[str, list[float]] = {"rouge-1": [], "rouge-2": [], "rouge-l": [], "bleu-4": []}
    for pred, label in zip(preds, labels, strict=True):
        hypothesis, reference = list(jieba.cut(pred)), list(jieba.cut(label))
        for k, v in Rouge().get_scores(" ".join(hypothesis), " ".join(reference))[0].items():
            score_dict[k].append(round(v["f"] * 100, 4))
        bleu_score = sentence_bleu([list(label)], list(pred), smoothing_function=SmoothingFunction().method3)
        score_dict["bleu-4"].append(round(bleu_score * 100, 4))
    return {k: float(np.mean(v)) for k, v in score_dict.items()}


def chinese_pairs() -> tuple[list[str], list[str]]:
    """Answers and references: made ones, and of AdvertiseGen where it is here, each answered by the one before."""
    made = [
        ("这条裙子很显瘦，非常 百搭。", "裙子显瘦百搭。夏天穿很凉快！"),
        ("ROUGE 3 of 4……对吗？", "ROUGE 4 of 4……对！"),
        ("好", "不好"),
        ("一样的句子。", "一样的句子。"),
    ]
    path = SHARED_DATA / "sft" / "AdvertiseGen" / "dev.json"
    lines = path.read_text().splitlines()[:31] if path.exists() else []
    texts = [json.loads(line)["summary"] for line in lines]
    answers, references = zip(*made, *pairwise(texts), strict=True)
    return list(answers), list(references)


def test_chatglms_figures_are_those_of_its_own_code() -> None:
    answers, references = chinese_pairs()
    found, theirs = scored(answers, references, "chinese"), published(answers, references)
    for name, value in zip(CHATGLM_METRICS, theirs.values(), strict=True):
        assert found[name].value * 100 == pytest.approx(value, abs=1e-4)  # theirs are rounded
    assert theirs["rouge-1"] != pytest.approx(100 * found["rouge1_words"].value, abs=0.1)  # another figure


@pytest.mark.heavy
def test_an_empty_answer_counts_in_chatglms_mean() -> None:
    """There rouge-chinese ends the run."""
    answers, references = chinese_pairs()
    with_empty = scored([*answers, "", " \n"], [*references, "参考", "参考"], "chinese")
    without = scored(answers, references, "chinese")
    for name in CHATGLM_METRICS:
        assert with_empty[name].value == pytest.approx(without[name].value * len(answers) / (len(answers) + 2))


def test_intervals_hold_the_value_and_are_drawn_alike() -> None:
    found = scored(ANSWERS * 5, REFERENCES * 5)
    for result in found.values():
        assert result.ci_low is not None and result.ci_high is not None
        assert result.ci_low < result.value < result.ci_high
        assert result.ci_method == "bootstrap"
    assert scored(ANSWERS * 5, REFERENCES * 5) == found
    wide = scored(ANSWERS, REFERENCES)["rouge1"]
    assert wide.ci_high - wide.ci_low > found["rouge1"].ci_high - found["rouge1"].ci_low  # type: ignore[operator]


def test_an_empty_answer_is_worth_nothing() -> None:
    for language in ("english", "chinese"):
        assert {result.value for result in scored(["", ""], ["some words", "字"], language).values()} == {0.0}
