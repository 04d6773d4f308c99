"""Published files as the records that lm-eval's tasks read, and what is said of files that are not as published."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from cluster.core.errors import InputError
from pipelines.stages.evaluation.local_data import load
from tests.conftest import SHARED_DATA


def write_lines(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_formatted_prompts_become_records_again(tmp_path: Path) -> None:
    write_lines(tmp_path / "x/arc_easy.jsonl", {"query": "Question: Why?\nHow?\n", "choices": ["a", "b"], "gold": 1})
    assert load(tmp_path, "arc_easy")["arc_easy"].test == [
        {"question": "Why?\nHow?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    ]
    write_lines(
        tmp_path / "copa.jsonl", {"query": "He ran, fast, because", "choices": ["it rained.", "i sat."], "gold": 0}
    )
    assert load(tmp_path, "copa")["copa"].test == [
        {"premise": "He ran, fast.", "question": "cause", "choice1": "it rained.", "choice2": "i sat.", "label": 0}
    ]
    write_lines(tmp_path / "lambada_openai.jsonl", {"context": "the last", "continuation": "word"})
    assert load(tmp_path, "lambada_openai")["lambada_openai"].test == [{"text": "the last word"}]
    prompt = (
        "Context: AIM. To see.\nRESULTS AND METHODS. DNA did.\nQuestion: Did it?\nA. yes\nB. no\nC. maybe\nAnswer: "
    )
    write_lines(tmp_path / "pubmed_qa_labeled.jsonl", {"context": prompt, "continuation": "yes"})
    assert load(tmp_path, "pubmedqa")["pubmedqa"].test == [
        {"CONTEXTS": ["To see.", "DNA did."], "QUESTION": "Did it?", "final_decision": "yes"}
    ]


def test_wikitext_is_a_page_an_article(tmp_path: Path) -> None:
    path = tmp_path / "wikitext-2" / "valid.txt"
    path.parent.mkdir()
    path.write_text(" \n = One = \n \n Text . \n = = Part = = \n More = . \n = Two = \n \n Text . \n")
    pages = [row["page"] for row in load(tmp_path, "wikitext")["wikitext"].test]
    assert pages == [" = One = \n \n Text . \n = = Part = = \n More = . ", " = Two = \n \n Text . \n"]


def test_groups_are_what_subjects_are_there(tmp_path: Path) -> None:
    for split in ("test", "dev"):
        (tmp_path / "mmlu" / split).mkdir(parents=True)
    (tmp_path / "mmlu/test/anatomy_test.csv").write_text('"A\nB?",1,2,3,4,D\n')
    (tmp_path / "mmlu/dev/anatomy_dev.csv").write_text("C?,1,2,3,4,A\n")
    found = load(tmp_path, "mmlu")
    assert found.keys() == {"mmlu_anatomy"}
    assert found["mmlu_anatomy"].test == [{"question": "A\nB?", "choices": ["1", "2", "3", "4"], "answer": 3}]
    assert found["mmlu_anatomy"].dev == [{"question": "C?", "choices": ["1", "2", "3", "4"], "answer": 0}]
    assert load(tmp_path, "mmlu_anatomy") == found
    with zipfile.ZipFile(tmp_path / "ceval-exam.zip", "w") as archive:
        archive.writestr("val/law_val.csv", "id,question,A,B,C,D,answer\n0,法?,一,二,三,四,C\n")
    (row,) = load(tmp_path, "ceval-valid")["ceval-valid_law"].test
    assert (row["question"], row["C"], row["answer"]) == ("法?", "三", "C")
    assert load(tmp_path, "ceval-valid")["ceval-valid_law"].dev is None


def test_what_is_not_as_published_is_named(tmp_path: Path) -> None:
    def said(task: str) -> str:
        with pytest.raises(InputError) as raised:
            load(tmp_path, task)
        return str(raised.value)

    assert "holds no data of copa" in said("copa")
    assert "no reader of local files for hellaswag" in said("hellaswag")
    write_lines(tmp_path / "arc_easy.jsonl", {"query": "Why?", "choices": ["a"], "gold": 0})
    assert "not the data of arc_easy as published" in said("arc_easy")
    write_lines(tmp_path / "a/copa.jsonl", {})
    write_lines(tmp_path / "b/copa.jsonl", {})
    assert "could both be copa" in said("copa")
    (tmp_path / "mmlu/test").mkdir(parents=True)
    (tmp_path / "mmlu/test/law_test.csv").write_text("one,two\n")
    assert "law_test.csv: not as published" in said("mmlu")


@pytest.mark.skipif(not (SHARED_DATA / "eval").exists(), reason=f"{SHARED_DATA / 'eval'} is missing")
@pytest.mark.parametrize(
    ("task", "subjects", "questions"),
    [
        ("arc_easy", 1, 2376),
        ("arc_challenge", 1, 1172),
        ("copa", 1, 100),
        ("lambada_openai", 1, 5153),
        ("pubmedqa", 1, 1000),
        ("wikitext", 1, 60),
        ("mmlu", 12, 2186),
        ("cmmlu", 10, 1830),
        ("ceval-valid", 52, 1346),
    ],
)
def test_real_files(task: str, subjects: int, questions: int) -> None:
    found = load(SHARED_DATA, task)
    assert len(found) == subjects
    assert sum(len(one.test) for one in found.values()) == questions
