"""What a batch keeps of a run that was killed, wherever that was; and what it takes for a request."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import InputError, NotReadyError
from serving.batch.journal import SUFFIX, Journal
from serving.batch.requests import Answers, Asked, Bad, read
from serving.batch.run import run

GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


def line_of(number: int) -> bytes:
    return json.dumps({"number": number, "text": "\t\u2028" * (number % 3)}).encode() + b"\n"


@given(st.permutations(range(1, 9)), st.integers(0, 400))
def test_a_journal_that_is_cut_anywhere_goes_on(order: list[int], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.jsonl"
        first = Journal(output, "batch")
        for number in order:
            first.add(number, line_of(number))
        first.close()
        whole = first.path.read_bytes()
        first.path.write_bytes(whole[:cut])
        second = Journal(output, "batch")
        kept = second.numbers
        assert kept == set(order[: len(kept)])  # a beginning of what there was
        for number in order:
            second.add(number, line_of(number) if number not in kept else b"not this\n")
        second.finish(range(1, 9))
        assert output.read_bytes() == b"".join(map(line_of, range(1, 9)))
        assert not second.path.exists()


def test_a_journal_has_one_writer_and_one_batch(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out", "mine")
    with pytest.raises(NotReadyError, match="another process"):
        Journal(tmp_path / "out", "mine")
    journal.close()
    with pytest.raises(InputError, match="of another batch"):
        Journal(tmp_path / "out", "yours")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"custom_id": None}, "custom_id"),
        ({"method": "GET"}, "method"),
        ({"url": "/v1/images"}, "url is '/v1/images'"),
        ({"body": []}, "body"),
        ({"body": {"prompt": "x", "stream": True}}, "a batch does not stream"),
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "in").write_text("\n".join(map(json.dumps, [GOOD, GOOD | {"custom_id": "b"} | change])))
    good, bad = read(tmp_path / "in")
    assert good == Asked(1, "a", "/v1/completions", {"prompt": "x"})
    assert isinstance(bad, Bad) and bad.number == 2 and said in bad.why and "line 2" in bad.why
    assert bad.custom_id == ({"custom_id": "b"} | change)["custom_id"]


def test_names_are_unique_and_broken_lines_are_told(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\n" + json.dumps(GOOD).encode() + b"\n{\n\xff\xfe\n\n" + json.dumps(GOOD).encode())
    lines = list(read(tmp_path / "in"))
    assert [(type(line), line.number) for line in lines] == [(Asked, 2), (Bad, 3), (Bad, 4), (Bad, 6)]
    assert isinstance(lines[3], Bad) and "is line 2's already" in lines[3].why


def test_what_is_there_is_not_asked_again(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "deep" / "out"
    source.write_text("".join(json.dumps(GOOD | {"custom_id": str(n)}) + "\n" for n in range(5)) + "{\n")
    asked: list[int] = []

    def way(todo: list[Asked], answers: Answers) -> Any:
        for each in reversed(todo):
            if len(asked) == 3:
                raise InterruptedError
            asked.append(each.number)
            yield each.number, answers.answered(each, 200, "id", {"n": each.number})

    with pytest.raises(InterruptedError):
        run(source, output, "me", way)
    assert asked == [5, 4, 3] and not output.exists()
    with pytest.raises(InputError, match="another batch"):
        run(source, output, "you", way)
    asked.clear()
    outcome = run(source, output, "me", way)
    assert sorted(asked) == [1, 2] and outcome.ends == {"200": 5, "invalid_line": 1}
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == ["0", "1", "2", "3", "4", None]
    assert [line["response"]["body"]["n"] for line in lines[:5]] == [1, 2, 3, 4, 5]
    assert lines[5]["error"]["line"] == 6 and lines[5]["response"] is None
    again = run(source, output, "me", way)
    assert again.was_there and again.ends == outcome.ends and len(asked) == 2
    with pytest.raises(InputError, match="is there already"):
        run(source, output, "you", way)
    assert not output.with_name(output.name + SUFFIX).exists()


def test_an_input_that_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("\n")
    with pytest.raises(InputError, match="no requests"):
        run(tmp_path / "in", tmp_path / "out", "me", lambda todo, answers: ())
    with pytest.raises(InputError, match="No such file"):
        run(tmp_path / "none", tmp_path / "out", "me", lambda todo, answers: ())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
