"""Overlap with evaluation data: what counts as one, on both sides of each threshold, and in real data."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import InputError
from pipelines.specs import Decontaminate
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.evaluation_ngrams import word_spans, words
from pipelines.stages.corpus.rules.rule import apply
from tests.conftest import SHARED_DATA

ALPHABET = [f"{first}{second}" for first in "abcdefgh" for second in "abcdefgh"]
ITEM = " ".join(ALPHABET[:20])
needs_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the evaluation data of ../shared/data")


def judged(text: str, rule: Decontaminate) -> str:
    return apply([rule], Document("d", text))[1]


def rule_of(folder: Path, strings: Iterable[str], **options: object) -> Decontaminate:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps({"id": "x", "question": string}) + "\n" for string in strings))
    return Decontaminate(paths=(str(path),), **options)  # type: ignore[arg-type]


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, ["something else that stands before it", ITEM])
    for start in (0, 3, 7):
        shared = ALPHABET[start : start + 13]
        assert judged(" ".join(["zz", *shared, "yy"]), rule) == "contaminated: items.jsonl:2"
        assert judged(" ".join(["zz", *shared[:12], "yy"]), rule) == ""
        assert judged(" ".join(["zz", *shared[:6], "xx", *shared[6:], "yy"]), rule) == ""
    assert judged("", rule) == ""


def test_case_punctuation_and_white_space_make_no_difference(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, ["Don't stop: the quick, brown fox -- jumps over the (lazy) dog and goes home today!"])
    assert judged("dont STOP\nthe quick brown “fox” jumps\tover the lazy dog, and goes home … today", rule)
    assert judged("do not stop the quick brown cat jumps over the lazy dog and goes home today", rule) == ""


def test_the_length_is_a_choice(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, [ITEM], ngram_words=5, min_words=5)
    assert judged(" ".join(ALPHABET[2:7]), rule)
    assert judged(" ".join(ALPHABET[2:6]), rule) == ""


def test_short_items_count_whole_from_the_least_length_on(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, [" ".join(ALPHABET[:8]), " ".join(ALPHABET[20:27])])
    assert judged(" ".join(["zz", *ALPHABET[:8], "zz"]), rule) == "contaminated: items.jsonl:1"
    assert judged(" ".join(["zz", *ALPHABET[:7], "zz"]), rule) == ""
    assert judged(" ".join(ALPHABET[20:27]), rule) == ""


def test_chinese_counts_by_characters_and_needs_twice_as_many(tmp_path: Path) -> None:
    text = "在一个风和日丽的下午小明和他的同学们一起去郊外的公园里放风筝看见了许多美丽的蝴蝶"
    rule = rule_of(tmp_path, [text, "急性淋巴细胞白血病的分类", "下列关于急性淋巴细胞白血病的说法正确"])
    assert judged(f"据说，{text[3:29]}。", rule) == "contaminated: items.jsonl:1"
    assert judged(f"据说，{text[3:10]}，{text[10:29]}。", rule) == "contaminated: items.jsonl:1"
    assert judged(f"据说，{text[3:28]}。", rule) == ""
    assert judged("急性淋巴细胞白血病的分类", rule) == ""
    assert judged("问：下列关于急性淋巴细胞白血病的说法正确吗", rule) == "contaminated: items.jsonl:3"


def test_templates_and_numbers_give_no_item_away(tmp_path: Path) -> None:
    strings = [f"{ITEM} {number}" for number in range(10)]
    assert judged(ITEM, rule_of(tmp_path, strings)) == "contaminated: items.jsonl:1"
    (tmp_path / "more").mkdir()
    assert judged(ITEM, rule_of(tmp_path / "more", [*strings, ITEM])) == ""
    counting = " ".join(map(str, range(30)))
    assert judged(counting, rule_of(tmp_path / "more", [counting], min_words=1)) == ""
    mixed = " ".join(f"{ALPHABET[n]} {n}" for n in range(20))
    (tmp_path / "mixed").mkdir()
    assert judged(mixed, rule_of(tmp_path / "mixed", [mixed]))


def test_every_string_of_every_kind_of_file_counts(tmp_path: Path) -> None:
    item = [" ".join(ALPHABET[start : start + 13]) for start in range(0, 48, 4)]
    folder = tmp_path / "eval"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(f'{{"q": 1}}\n\n{{"c": ["", "{item[0]}"]}}\n'.encode()))
    (folder / "b.json").write_text(json.dumps([{"x": 1}, {"deep": {"deeper": item[1]}}]))
    (folder / "c.json").write_text(json.dumps({"x": item[2]}, indent=1))
    (folder / "d.json").write_text(f'{{"x": "{item[3]}"}}\n{{"x": "{item[4]}"}}\n')
    (folder / "deep/e.csv.bz2").write_bytes(bz2.compress(f'id,q\n1,"{item[5][:8]}\n{item[5][8:]}"\n2,x\n'.encode()))
    (folder / "f.tsv.zst").write_bytes(zstandard.compress(b"x\t") + zstandard.compress(f"{item[6]}\n".encode()))
    (folder / "g.txt.xz").write_bytes(lzma.compress(f"\ufeffshort\n{item[7]}\n".encode()))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("val/h.csv", f"{item[8]},1\n")
        archive.writestr("val/readme.md", item[9])
    (folder / "z.zip").write_bytes(packed.getvalue())
    (folder / "readme.md").write_text(item[9])
    rule = Decontaminate(paths=(str(folder),))
    found = [judged(text, rule).removeprefix("contaminated: ") for text in item[:10]]
    assert found == [
        *("a.jsonl.gz:3", "b.json:2", "c.json:1", "d.json:1", "d.json:2"),
        *("e.csv.bz2:2", "f.tsv.zst:1", "g.txt.xz:2", "h.csv:1", ""),
    ]
    globbed = Decontaminate(paths=(str(folder / "*.tsv*"), str(folder / "g.txt.xz")))
    assert [bool(judged(item[n], globbed)) for n in (5, 6, 7)] == [False, True, True]


def test_data_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"decontaminate: paths: no file at .*missing"):
        judged("a", Decontaminate(paths=(str(tmp_path / "missing"),)))
    for name, content in {
        "a.jsonl": b'{"x": 1}\n{"x": ',
        "b.txt": b"\xff\xfe\xff",
        "c.zip": b"no archive",
        "d.jsonl.gz": b"no gzip",
        "e.json": b"[1,",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            judged("a", Decontaminate(paths=(str(tmp_path / name),)))
    (tmp_path / "f.md").write_text("x")
    with pytest.raises(InputError, match="no evaluation data"):
        judged("a", Decontaminate(paths=(str(tmp_path / "f.md"),)))


def test_cutting_takes_the_overlap_with_its_margin(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, [ITEM], action="cut", margin_characters=4, min_fragment_characters=10)
    document = Document("d", f"The beginning stays xx {ITEM}, xx the end stays too.")
    assert apply([rule], document)[1] == ""
    assert document.text == "The beginning stays\n\nthe end stays too."
    document = Document("d", f"Short. xx {ITEM}. xx The end stays too.")
    assert apply([rule], document)[1] == ""
    assert document.text == "The end stays too."
    assert judged(ITEM, rule) == "contaminated: items.jsonl:1"
    clean = "A text of its own."
    document = Document("d", clean)
    assert (apply([rule], document)[1], document.text) == ("", clean)


def test_what_is_cut_too_often_is_rejected(tmp_path: Path) -> None:
    options = {"action": "cut", "margin_characters": 0, "min_fragment_characters": 5, "max_fragments": 3}
    rule = rule_of(tmp_path, [ITEM], **options)
    assert judged(f"first {ITEM} second {ITEM} third", rule) == ""
    assert judged(f"first {ITEM} second {ITEM} third {ITEM} fourth", rule) == "contaminated: items.jsonl:1"


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_spans_are_those_of_the_words(text: str) -> None:
    spans = word_spans(text)
    assert len(spans) == len(words(text))
    assert all(start < stop for start, stop in spans)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))
    assert words(text) == [word for start, stop in spans for word in words(text[start:stop])]


@given(before=st.text(st.characters()), after=st.text(st.characters()), action=st.sampled_from(["reject", "cut"]))
def test_an_item_is_found_in_any_surroundings(
    before: str, after: str, action: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "surroundings"
    folder.mkdir(exist_ok=True)
    rule = rule_of(folder, [ITEM], action=action)
    document = Document("d", f"{before}\n{ITEM}\n{after}")
    reason = apply([rule], document)[1]
    assert reason == "contaminated: items.jsonl:1" or (action == "cut" and ITEM not in document.text)


@needs_data
def test_the_known_overlap_of_dolly_with_humaneval_is_found() -> None:
    rule = Decontaminate(paths=(str(SHARED_DATA / "eval/humaneval"),))
    found = []
    with open(SHARED_DATA / "sft/dolly_hhrlhf/dolly_hhrlhf_train_small.jsonl") as lines:
        for number, line in enumerate(lines, 1):
            record = json.loads(line)
            if reason := judged(f"{record['prompt']}\n{record['response']}", rule):
                found.append((number, reason))
    assert found == [(353, "contaminated: HumanEval.jsonl.gz:79")]


@needs_data
def test_three_questions_of_gsm8k_are_in_its_training_data() -> None:
    rule = Decontaminate(paths=(str(SHARED_DATA / "rl_prompts/gsm8k/test.jsonl"),), min_words=13)
    with open(SHARED_DATA / "rl_prompts/gsm8k/train.jsonl") as lines:
        reasons = {judged(json.loads(line)["question"], rule) for line in lines}
    assert reasons == {"", *(f"contaminated: test.jsonl:{number}" for number in (582, 603, 633))}


@pytest.mark.heavy
@needs_data
def test_published_csv_and_zip_are_read_and_their_items_found() -> None:
    rule = Decontaminate(paths=(str(SHARED_DATA / "eval/ceval"), str(SHARED_DATA / "eval/mmlu/data/test/abstract*")))
    question = "Statement 1 | A factor group of a non-Abelian group is non-Abelian. Statement 2 | If K is a normal"
    assert judged(question, rule).startswith("contaminated: abstract_algebra_test.csv:")
    assert judged("使用位填充方法，以01111110为位首flag，数据为011011111111111111110010，求问传送时要添加几个0", rule)
    assert judged("An honest sentence that nobody has ever put into any examination of law or of algebra.", rule) == ""
