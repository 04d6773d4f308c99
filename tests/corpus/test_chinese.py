"""Rules for Chinese text, on both sides of each threshold."""

from __future__ import annotations

import pytest

from pipelines.specs import ChineseLines, ChineseQuality, ChineseRepetition, ConvertChinese, HalfWidth
from tests.corpus.rule import cleaned, run

SENTENCE = "今天的天气很好，我们在公园里和朋友一起散步。"


def test_characters_are_converted() -> None:
    assert cleaned(ConvertChinese(), "漢字轉換 abc") == "汉字转换 abc"
    assert cleaned(ConvertChinese(config="s2twp"), "软件") == "軟體"
    assert cleaned(ConvertChinese(), "plain\ud800") == "plain\ud800"
    assert cleaned(ConvertChinese(), "漢\ud800") == "汉\ufffd"


def test_full_width_letters_become_ascii_and_punctuation_on_request() -> None:
    assert cleaned(HalfWidth(), "ＡＢＣ１２３，。！\u3000") == "ABC123，。！\u3000"
    assert cleaned(HalfWidth(punctuation=True), "ＡＢＣ１２３，。！\u3000") == "ABC123,。! "


def test_lines_that_are_no_sentences_go() -> None:
    rule = ChineseLines(min_lines=1)
    page = f"首页 > 新闻\n  {SENTENCE}  \n好。\n{'长' * 500}。\n乱码�在这里。\n真的吗？"
    assert cleaned(rule, page) == SENTENCE
    assert cleaned(ChineseLines(min_lines=1, min_line_characters=4), page) == f"{SENTENCE}\n真的吗？"
    assert cleaned(ChineseLines(min_lines=1, max_line_characters=501), page).count("\n") == 1
    assert cleaned(ChineseLines(min_lines=1, sentence_end=False), "没有句号的一行") == "没有句号的一行"
    assert cleaned(ChineseLines(min_lines=1, min_han=10), f"ABCDEFGHIJ一二三。\n{SENTENCE}") == SENTENCE
    half = SENTENCE + "然后我们"
    assert run(rule, half)[1] == "chinese_lines"
    assert cleaned(ChineseLines(min_lines=1, cut_unfinished=True), half) == SENTENCE
    assert run(ChineseLines(), "\n".join([SENTENCE] * 5))[1] == "chinese_lines"
    assert run(ChineseLines(), "\n".join([SENTENCE] * 6))[1] == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("在的吃" * 66 + "，。", "chinese_length"),
        ("在的吃" * 66 + "吃，。", "chinese_punctuation"),
        ("在的吃" * 66 + "，，。", ""),
        ("在的" * 129 + "吃" + "，" * 141, "chinese_punctuation"),
        ("在的" * 130 + "，" * 140, ""),
        ("吃吃在，" * 60, "stop_characters"),
        ("吃的在，" * 60, ""),
        ("吃的這，" * 60, ""),
        ("在的吃吃吃吃吃吃，\n" * 40 + "吃" * 9, "chinese_line_length"),
        ("在的吃吃吃吃吃吃，\n" * 40 + "吃" * 10, ""),
        ("在的" * 59 + "吃" + "q" * 271 + "," * 10, "han_fraction"),
        ("在的" * 60 + "q" * 270 + "," * 10, ""),
    ],
)
def test_chinese_quality_on_both_sides_of_each_threshold(text: str, reason: str) -> None:
    assert run(ChineseQuality(), text)[1] == reason


def test_repetition_counts_runs_of_characters() -> None:
    distinct = "".join(chr(0x4E00 + i) for i in range(100))
    assert run(ChineseRepetition(), distinct)[1] == ""
    assert run(ChineseRepetition(), distinct + "\n " + distinct)[1] == "chinese_repetition"
    # 4 runs of 2 in `abcab`: ab bc ca ab; two of them are the same.
    assert run(ChineseRepetition(ngram_characters=2, max_fraction=0.5), "abcab")[1] == ""
    assert run(ChineseRepetition(ngram_characters=2, max_fraction=0.49), "A bc\nab")[1] == "chinese_repetition"
    assert run(ChineseRepetition(), "短")[1] == ""
