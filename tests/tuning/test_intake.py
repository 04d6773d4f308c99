"""Files of conversations: any container, compression and encoding; every record is accounted for, errors name it."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cluster.core.build import build
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec
from pipelines.stages.tuning.conversations import read_conversations, read_lines
from pipelines.stages.tuning.formats import prompts
from pipelines.stages.tuning.formats.record import Record
from pipelines.stages.tuning.intake import Intake, Taken
from pipelines.stages.tuning.records import parsed
from tests.conftest import SHARED_DATA

CASES = SHARED_DATA.parent / "cases" / "tuning"
COUNT = 40
QUESTION = "Was ist „{number}“ auf 中文, Łódź?"


def made(store: Store, path: Path | str, **fields: Any) -> Artifact:
    return build(ConversationsSpec(source="file", path=str(path), **fields), {}, store=store, name="x")


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    return [row for split in ("train", "heldout") for row in read_conversations(artifact.local(), split)]


def report_of(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(artifact.location.read_bytes("report.json"))
    return found


RECORDS = [
    {"prompt": QUESTION.format(number=number), "response": f"Die {number}.\nGanz sicher.", "license": None}
    for number in range(COUNT)
]


def as_lines(text: str = "\n") -> bytes:
    return text.join(json.dumps(record, ensure_ascii=False) for record in RECORDS).encode()


def as_csv(delimiter: str = ",", encoding: str = "utf-8") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["prompt", "response", "license"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(RECORDS)
    return file.getvalue().encode(encoding)


def as_parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), file, row_group_size=7)
    return file.getvalue()


CONTAINERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "lines": ("x.json", as_lines),
    "lines with blanks and a byte order mark": ("x.jsonl", lambda: b"\xef\xbb\xbf" + as_lines("\r\n\r\n")),
    "an array": ("x.jsonl", lambda: json.dumps(RECORDS).encode()),
    "an array over lines": ("x.json", lambda: json.dumps(RECORDS, indent=2).encode()),
    "objects over lines": ("x.json", lambda: "\n".join(json.dumps(each, indent=1) for each in RECORDS).encode()),
    "gzipped lines": ("x.json", lambda: gzip.compress(as_lines())),
    "an array in Zstandard": ("x.json.zst", lambda: zstandard.compress(json.dumps(RECORDS).encode())),
    "lines in UTF-16": ("x.jsonl", lambda: as_lines().decode().encode("utf-16")),
    "an array in GB18030": ("x.json", lambda: json.dumps(RECORDS, ensure_ascii=False).encode("gb18030")),
    "CSV": ("x.csv", as_csv),
    "CSV of Excel, gzipped": ("x.csv.gz", lambda: gzip.compress(as_csv(encoding="utf-8-sig"))),
    "TSV": ("x.tsv", lambda: as_csv("\t")),
    "Parquet": ("x.parquet", as_parquet),
    "Parquet in Zstandard": ("x.parquet.zst", lambda: zstandard.compress(as_parquet())),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(container: str, store: Store, tmp_path: Path) -> None:
    name, write = CONTAINERS[container]
    (tmp_path / name).write_bytes(write())
    artifact = made(store, tmp_path / name)
    found = {row["id"]: [turn["content"] for turn in row["messages"]] for row in rows_of(artifact)}
    assert found == {f"{name}:{n}": [each["prompt"], each["response"]] for n, each in enumerate(RECORDS, 1)}
    assert {(row["source"], row["license"]) for row in rows_of(artifact)} == {(name, "unknown")}
    report = report_of(artifact)
    assert (report["formats"], report["records"], report["left_out"]) == ({"prompt-response": COUNT}, COUNT, {})


def test_an_encoding_that_cannot_be_guessed_is_declared(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    records = [{"prompt": f"これは何ですか {number}", "response": "猫です。"} for number in range(COUNT)]
    path.write_bytes("\n".join(json.dumps(each, ensure_ascii=False) for each in records).encode("shift_jis"))
    with pytest.raises(InputError, match=r"40 of 40 records cannot be used, .*not UTF-8.*encoding"):
        made(store, path)
    texts = {row["messages"][0]["content"] for row in rows_of(made(store, path, encoding="shift_jis"))}
    assert texts == {each["prompt"] for each in records}


def test_a_folder_of_several_formats_and_files_of_something_else(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    for number in range(5):
        chat = [{"from": "human", "value": f"Who is {number}?"}, {"from": "gpt", "value": "Me."}]
        (folder / "deep" / f"{number}.json").write_text(json.dumps({"conversations": chat}, indent=1))
    (folder / "cut.json").write_text('{\n "conversations": [{"from": "human",\n')
    (folder / "alpaca.jsonl").write_text(
        "\n".join(json.dumps({"instruction": f"Say {n}.", "input": "", "output": "Now."}) for n in range(30))
    )
    (folder / "diseases.csv").write_text("name,symptoms\nflu,\"['cough']\"\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    told: list[str] = []
    spec = ConversationsSpec(source="file", path=str(folder))
    artifact = build(spec, {}, store=store, name="x", notice=told.append)
    report = report_of(artifact)
    assert report["formats"] == {"alpaca": 30, "sharegpt": 5}
    assert list(report["set_aside"]) == ["diseases.csv"]
    assert report["reasons"] == {"not JSON": 1}
    assert report["licenses"] == {"MIT": 35}
    assert report["sources"] == {"set": 35}
    [cut] = read_lines(artifact.location, "rejected.jsonl")
    assert (cut["id"], cut["line"]) == ("cut.json:1", 1)
    assert "deep/3.json:1" in {row["id"] for row in rows_of(artifact)}
    assert any("taken for alpaca (30), sharegpt (5)" in each for each in told)
    assert any("diseases.csv is left out: no known format: the fields are 'name', 'symptoms'" in each for each in told)


def write_pairs(path: Path, count: int, **more: Any) -> None:
    path.write_text("\n".join(json.dumps({"prompt": f"Who is {n}?", "response": "Me.", **more}) for n in range(count)))


def test_a_validation_file_of_ones_own(store: Store, tmp_path: Path) -> None:
    write_pairs(tmp_path / "train.jsonl", 20)
    write_pairs(tmp_path / "mine.jsonl", 22)
    artifact = made(store, tmp_path / "train.jsonl", validation_path=str(tmp_path / "mine.jsonl"))
    flow = artifact.metrics["flow"]
    assert flow == {"in": 42, "train": 20, "heldout": 2, "rejected": 0, "duplicates": 20, "not_sampled": 0}
    heldout = read_conversations(artifact.local(), "heldout")
    assert {row["id"] for row in heldout} == {"validation/mine.jsonl:21", "validation/mine.jsonl:22"}


def test_a_hub_data_set(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a hub's file system, which here is one in memory: its files and its card's licence."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Hub(MemoryFileSystem):  # type: ignore[misc]
        protocol = "hf"
        store: dict[str, Any] = {}
        pseudo_dirs = [""]

    fsspec.register_implementation("hf", Hub, clobber=True)
    root = "hf://datasets/someone/chats@main"
    with fsspec.open(f"{root}/README.md", "wb") as file:
        file.write(b"---\nlicense: cc-by-4.0\n---\n")
    for split in ("train", "test"):
        with fsspec.open(f"{root}/data/{split}-00000-of-00001.parquet", "wb") as file:
            pq.write_table(pa.table({"prompt": [f"{split} {n}?" for n in range(20)], "response": ["Me."] * 20}), file)
    artifact = made(store, "hub:someone/chats", validation_path="hub:someone/chats", validation_split="test")
    report = report_of(artifact)
    assert (report["flow"]["train"], report["flow"]["heldout"]) == (20, 20)
    assert (report["licenses"], report["sources"]) == ({"CC-BY-4.0": 40}, {"someone/chats": 40})


CARD = "---\nlicense: cc-by-sa-4.0\ntags: [chat]\n---\n# Chats\n"


def test_licences_of_records_of_the_spec_and_of_the_card(store: Store, tmp_path: Path) -> None:
    """A record's own name comes first, then the spec's, then that of the card beside the file."""
    own = [
        {"license": "CC BY-NC 4.0"}, {"licence": "cc-by-nc-4.0"}, {"license": ["mit", "Apache 2.0"]},
        {"license": {"name": "MIT License"}}, {"metadata": {"license": "house rules"}}, {}, {"license": ""},
    ]  # fmt: skip
    turns = {"prompt": "Who?", "response": "Me."}
    records = [turns | {"prompt": f"Who is {number}?"} | record for number, record in enumerate(own)]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))

    def found(**fields: Any) -> list[str]:
        artifact = made(store, path, format="prompt-response", **fields)
        rows = sorted(rows_of(artifact), key=lambda row: row["id"])
        assert artifact.metrics["licenses"] == dict(
            sorted(Counter(row["license"] for row in rows).items(), key=lambda item: (-item[1], item[0]))
        )
        return [row["license"] for row in rows]

    named = ["CC-BY-NC-4.0", "CC-BY-NC-4.0", "MIT AND Apache-2.0", "MIT", "house rules"]
    assert found() == [*named, "unknown", "unknown"]
    (tmp_path / "README.md").write_text(CARD)
    assert found(seed=1) == [*named, "CC-BY-SA-4.0", "CC-BY-SA-4.0"]
    assert found(license="Apache 2.0") == [*named, "Apache-2.0", "Apache-2.0"]


BAD = [
    ('{"prompt": "a", "response": "b"', "not JSON"),
    ("[1, 2]", "not an object"),
    ('{"prompt": "a"}', "not of format prompt-response: the fields are 'prompt'"),
    ('{"prompt": ["a"], "response": "b"}', "list in a cell: prompt"),
    ('{"prompt": "a", "response": "\\ud800"}', "half of a surrogate pair"),
    ('{"prompt": "\udcff", "response": "b"}', "not UTF-8"),
    ('{"prompt": "a", "response": "b", "prompt": "c"}', "duplicate key: 'prompt'"),
    ('{"prompt": "a", "response": "b", "meta": {"x": 1, "x": 2}}', "duplicate key: 'x'"),
    ("[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_record_is_named(line: str, reason: str, store: Store, tmp_path: Path) -> None:
    good = [json.dumps({"prompt": f"Who is {n}?", "response": "Me."}) for n in range(38)]
    path = tmp_path / "records.jsonl"
    path.write_bytes("\n".join([*good[:20], "", line, *good[20:]]).encode("utf-8", "surrogateescape"))
    artifact = made(store, path, format="prompt-response")
    [rejected] = read_lines(artifact.location, "rejected.jsonl")
    assert (rejected["id"], rejected["line"]) == ("records.jsonl:21", 22)
    assert reason in rejected["reason"]
    with pytest.raises(InputError, match=r"records\.jsonl: 1 of 39 .* in line 22: .*max_bad_fraction"):
        made(store, path, format="prompt-response", max_bad_fraction=0.02)


def test_empty_answers_are_set_aside_and_are_no_sign_of_another_format(store: Store, tmp_path: Path) -> None:
    answers = ["" if number % 2 else "Me." for number in range(40)]
    records = [{"question": f"Who is {n}?", "std_answer": answer} for n, answer in enumerate(answers)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    artifact = made(store, tmp_path / "x.jsonl")
    assert artifact.metrics["reasons"] == {"empty answer": 20}
    assert artifact.metrics["flow"]["in"] == 40


def test_duplicate_keys_are_found_and_nothing_else_is_taken_for_one() -> None:
    record = {"a": 'he said "x": 1', "b": [{"a": 1}, {"a": 2}], '"c":': {"a": {}}}
    assert parsed(json.dumps(record).encode()) == record
    assert parsed(json.dumps(record, indent=1).replace('":', '"  :').encode()) is not None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds no record"),
        (b'[{"prompt": "a",\n "response": "b"},\n {"prompt" "a"}]', r"Expecting ':' delimiter \(line 3\)"),
        (b'["a", "b"]\n["c", "d"]\n', "something follows the end of the array"),
        (b"\x1f\x8b\x08not gzip", "compressed file"),
        (b"[" * 100_000, "not JSON"),
        (None, "not a folder or file"),
        (b'[{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d"}]', r"a comma is missing .*\(line 2\)"),
        (b'[{"prompt": "a", "response": "b"},\n\n,{"prompt": "c"}]', r"a value is missing .*\(line 1\)"),
        (b'[{"prompt": "a", "response": "b"}', r"cut off \(line 1\)"),
        (b"[{'prompt': 'a', 'response': 'b'}]", r"Expecting property name.*\(line 1\)"),
        (b'[{"prompt": "a", "response": "b"}] and more', "follows the end of the array"),
        (b"PAR1 and no more", "arquet"),
    ],
)
def test_a_broken_file_is_named(data: bytes | None, said: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=rf"broken\.json.*{said}"):
        made(store, path)


def test_another_format_is_said_before_much_is_read_and_the_best_guess_is_named(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_pairs(path, 3000)
    with pytest.raises(InputError) as caught:
        made(store, path, format="alpaca")
    assert "not of format alpaca: the fields are 'prompt', 'response'" in str(caught.value)
    assert "1000 of 1000 look like prompt-response" in str(caught.value)
    mixed = [{"instruction": f"Say {n}.", "output": "Now."} for n in range(30)]
    with path.open("a") as file:
        file.writelines("\n" + json.dumps(each) for each in mixed)
    with pytest.raises(InputError) as caught:
        made(store, path, format="prompt-response", max_bad_fraction=0.001)
    assert "30 of 3030 records cannot be used, the first (x.jsonl:3001) in line 3001" in str(caught.value)
    assert "30 of 30 look like alpaca" in str(caught.value)
    assert made(store, path).metrics["formats"] == {"prompt-response": 3000, "alpaca": 30}


@pytest.mark.parametrize(("ending", "write"), [("parquet", pq.write_table), ("csv", None)])
def test_a_table_without_a_known_column(ending: str, write: Any, store: Store, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    table = pa.table({"frage": [f"Wer {n}?" for n in range(30)], "antwort": ["Ich."] * 30})
    if write:
        write(table, path)
    else:
        path.write_text("frage,antwort\n" + "".join(f"Wer {n}?,Ich.\n" for n in range(30)))
    with pytest.raises(InputError, match=r"no known format: the fields are 'frage', 'antwort'.*map the columns"):
        made(store, path)
    with pytest.raises(InputError, match=r"no known column: 'question' \(for prompt\) is not among 'frage', 'antwort'"):
        made(store, path, columns={"prompt": "question", "response": "antwort"})
    artifact = made(store, path, columns={"prompt": "frage", "response": "antwort"})
    assert artifact.metrics["flow"]["in"] == 30


def test_columns_may_say_whence_a_record_is_and_under_which_licence(store: Store, tmp_path: Path) -> None:
    rows = [
        {"q": f"Who is {n}?", "a": "Me.", "from": "a ward", "terms": "cc-by-nc-4.0", "on": "2020"} for n in range(9)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"prompt": "q", "response": "a", "source": "from", "license": "terms"}
    report = report_of(made(store, tmp_path / "x.jsonl", columns=columns))
    assert (report["sources"], report["licenses"]) == ({"a ward": 9}, {"CC-BY-NC-4.0": 9})
    assert (report["left_out"], report["formats"]) == ({"on": 9}, {"columns": 9})


def test_parquet_of_structs_has_no_nulls_of_other_rows(store: Store, tmp_path: Path) -> None:
    """Arrow gives each struct of a list the fields of all others."""
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
    tail = [
        {"role": "assistant", "content": "Me.", "weight": 0},
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    records = [{"messages": [{"role": "user", "content": f"Who is {n}?"}, *tail]} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "x.parquet")
    for row in rows_of(made(store, tmp_path / "x.parquet")):
        assert [set(turn) for turn in row["messages"]] == [
            {"role", "content"}, {"role", "content", "learn"}, {"role", "content"}, {"role", "content", "tool_calls"}
        ]  # fmt: skip
        assert row["messages"][3]["tool_calls"] == [call]


def test_rows_of_csv_that_are_none(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    lines = [f'"Who is {n},\n{n}?",Me.' for n in range(20)]
    path.write_text("prompt,response\n" + "\n".join([*lines[:3], "one", "a,b,c", *lines[3:]]) + "\n")
    artifact = made(store, path, max_bad_fraction=0.2)
    assert artifact.metrics["flow"]["rejected"] == 2
    rejected = read_lines(artifact.location, "rejected.jsonl")
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (8, "cells of a row: 1, where the head has 2"),
        (9, "cells of a row: 3, where the head has 2"),
    ]


def test_a_file_that_a_package_carries_is_found_from_anywhere(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = ConversationsSpec(source="file", path="package:pipelines/data/assistant.jsonl", format="prompt-response")
    flow = build(spec, {}, store=store, name="x").metrics["flow"]
    assert (flow["in"], flow["rejected"], flow["duplicates"]) == (291, 0, 0)
    for wrong, said in (("no_such/x.json", "no Python package 'no_such'"), ("pipelines/data/no.json", "No such file")):
        with pytest.raises(InputError, match=said):
            build(msgspec.structs.replace(spec, path=f"package:{wrong}"), {}, store=store, name="x")


@pytest.mark.parametrize(
    ("record", "reference"),
    [
        ({"question": "How many?", "answer": "2 + 2 = 4\n#### 4"}, "2 + 2 = 4\n#### 4"),
        ({"prompt": "How many?", "answer": 42}, "42"),
        ({"prompt": "How many?", "solution": 0.5}, "0.5"),
        ({"prompt": "Is it?", "answer": True}, None),
        ({"prompt": "Add.", "tests": "assert add(1) == 2"}, "assert add(1) == 2"),
        ({"prompt": "Add.", "test_list": ["assert a(1)", "assert a(2)"]}, "assert a(1)\nassert a(2)"),
        ({"prompt": "def a", "entry_point": "a", "test": "def check(f): pass"}, "def check(f): pass\n\ncheck(a)\n"),
        ({"prompt": [{"role": "user", "content": "How many?"}], "reference": "4"}, "4"),
    ],
)
def test_a_prompt_and_what_a_right_answer_says_are_a_record(record: dict[str, Any], reference: str | None) -> None:
    [found] = prompts.LAYOUT.read(Record(record))
    assert [message["role"] for message in found["messages"]] == ["user"] and found.get("reference") == reference


def test_what_else_a_prompt_says_is_kept_for_the_reward() -> None:
    record = {"prompt": "How many?", "answer": 4, "level": 3, "tests": ["a"], "license": "mit", "note": ""}
    assert prompts.LAYOUT.read(Record(dict(record))) == [
        {
            "messages": [{"role": "user", "content": "How many?"}],
            "reference": "4",
            "fields": {"level": 3, "tests": ["a"]},
        }
    ]
    graded = {"style": "rule", "ground_truth": "51"}  # verl's layout
    record = {"prompt": [{"role": "user", "content": "17 * 3?"}], "reward_model": graded, "data_source": "sums"}
    [found] = prompts.LAYOUT.read(Record(dict(record)))
    assert found["reference"] == "51" and found["fields"] == {"reward_model": graded, "data_source": "sums"}


def test_columns_of_one_name_are_refused_in_every_table(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([x]) for x in "abc"], names=["prompt", "response", "response"])
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("prompt,response,response\na,b,c\n")
    for name in ("a.parquet", "a.csv"):
        spec = ConversationsSpec(source="file", path=str(tmp_path / name))
        with pytest.raises(InputError, match="two columns of one name among prompt, response, response"):
            list(Intake(spec, spec.path, "train"))


@pytest.mark.parametrize(
    "fields",
    [{"licence": "mit"}, {"License": "MIT"}, {"licenses": ["mit"]}, {"metadata": {"LICENSE": {"spdx": "MIT"}}}],
)
def test_a_licence_counts_under_any_of_its_names(tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "response": "b", **fields}))
    spec = ConversationsSpec(source="file", path=str(tmp_path / "a.jsonl"))
    [found] = Intake(spec, spec.path, "train")
    assert isinstance(found, Taken) and found.license == "MIT"


needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the collection of cases is not on this machine")


@needs_cases
def test_cases_of_the_field(store: Store, tmp_path: Path) -> None:
    for name, count in (("c20.jsonl", 20), ("nc.jsonl", 20)):
        assert made(store, CASES / name).metrics["formats"] == {"messages": count}
    requests = made(store, CASES / "prompts_only.jsonl", format="prompts", heldout_fraction=0.5)
    assert sorted((row["messages"][0]["content"], row["reference"]) for row in rows_of(requests)) == [
        ("What is 12 - 5?", "7"),
        ("What is 17 * 3?", "51"),
    ]
    with pytest.raises(InputError, match=r"a comma is missing in front of it \(line 1\)"):
        made(store, CASES / "damaged_array.json")
    with pytest.raises(InputError, match=r"no answer: ends with the user's turn .the format `prompts`"):
        made(store, CASES / "prompts_only.jsonl")
    write_pairs(tmp_path / "own.jsonl", 3)
    parts = made(store, CASES / "content_parts.jsonl", validation_path=str(tmp_path / "own.jsonl"))
    [row] = read_conversations(parts.local(), "train")
    assert [turn["content"] for turn in row["messages"]] == ["Sky?", "Blue"]
    assert parts.metrics["flow"]["duplicates"] == 1  # the second record is the same, in the other layout
