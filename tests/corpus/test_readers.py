"""Every record of a file becomes a document, or says why not: text, installed Python, JSON, Parquet, RedPajama, hub."""

from __future__ import annotations

import codecs
import datetime
import decimal
import gzip
import importlib.metadata
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.errors import InputError, SpecError
from cluster.core.storage.location import Location
from pipelines.specs import (
    CodeSource,
    CorpusSpec,
    HuggingFaceSource,
    InstalledPythonSource,
    JsonLinesSource,
    ParquetSource,
    RedPajamaSource,
    TextSource,
)
from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers import json_objects, records
from pipelines.stages.corpus.readers.installed import license_of
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading import files
from pipelines.stages.corpus.reading.files import UNREADABLE
from tests.conftest import ROOT, SHARED_DATA


def read_all(source: Source) -> tuple[list[Document], list[Broken]]:
    found = [record for file in source.list_files() for record in source.read(file)]
    for record in found:
        assert not isinstance(record, Document) or json.loads(record.row()["metadata"]) == record.metadata
    return [r for r in found if isinstance(r, Document)], [r for r in found if isinstance(r, Broken)]


def read_until_raised(source: Source) -> tuple[list[Document | Broken], str]:
    """What was read before the one file of the source could not be read any further, and why."""
    (file,) = source.list_files()
    found: list[Document | Broken] = []
    with pytest.raises(UNREADABLE) as caught:
        found.extend(source.read(file))
    return found, str(caught.value)


def shared(name: str) -> str:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is missing")
    return str(path)


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


# Text


def test_a_file_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffcafé\r\n".encode())
    (tmp_path / "b.txt").write_bytes("café au lait".encode("latin-1"))
    (tmp_path / "c.txt").write_bytes("café".encode() + b"\xff")
    (tmp_path / "d.txt").write_bytes(b"")
    (tmp_path / "e.txt").write_bytes(b"PNG\0")
    documents, broken = read_all(TextSource(path=str(tmp_path)))
    assert [(d.id, d.text, d.metadata) for d in documents] == [
        ("a.txt", "café\n", {}),
        ("b.txt", "café au lait", {"encoding": "windows-1252"}),
        ("c.txt", "café\ufffd", {"replacement_characters": 1}),
        ("d.txt", "", {}),
    ]
    assert [(b.id, b.reason) for b in broken] == [("e.txt", "binary: NUL at byte 3")]


def test_a_declared_encoding(tmp_path: Path) -> None:
    text = "Zażółć gęślą jaźń"
    (tmp_path / "a.txt").write_bytes(text.encode("cp1250"))
    (document,), _ = read_all(TextSource(path=str(tmp_path), encoding="windows-1250"))
    assert (document.text, document.metadata) == (text, {"encoding": "cp1250"})
    (document,), _ = read_all(TextSource(path=str(tmp_path)))
    assert document.metadata == {
        "replacement_characters": document.text.count("\ufffd"),
        "likely_encoding": "windows-1250",
    }
    for wrong in ("nonsense", "base64", "utf-9"):
        with pytest.raises(SpecError, match=rf"corpus\.sources\[0\]\.encoding: '{wrong}' is no encoding of text"):
            CorpusSpec(sources=(TextSource(path="x", encoding=wrong),)).check()


def test_a_file_too_large_is_no_document(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as sparse:
        sparse.truncate(files.MAX_DOCUMENT_BYTES + 1)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"a" * (files.MAX_DOCUMENT_BYTES + 1), 1))
    documents, broken = read_all(TextSource(path=str(tmp_path)))
    assert (documents, [b.reason.partition(":")[0] for b in broken]) == ([], ["file_size", "file_size"])


def test_real_texts() -> None:
    documents, broken = read_all(TextSource(path=shared("redpajama_like/gutenberg")))
    assert (len(documents), len(broken), {str(d.metadata) for d in documents}) == (6, 0, {"{}"})
    assert not any("\r\n" in d.text or d.text.startswith("\ufeff") for d in documents)
    documents, broken = read_all(TextSource(path=shared("shakespeare/input.txt")))
    assert [(d.id, len(d.text), d.text.count("\n")) for d in documents] == [("input.txt", 1_115_394, 40_000)]
    documents, broken = read_all(TextSource(path=shared("zh"), suffixes=(".txt",)))
    paths = sorted(path.relative_to(SHARED_DATA / "zh").as_posix() for path in (SHARED_DATA / "zh").rglob("*.txt"))
    assert ([d.id for d in documents], broken) == (paths, [])
    titles = [
        line for d in documents if d.id in ("thucnews/dev.txt", "thucnews/test.txt") for line in d.text.split("\n")
    ]
    assert sum(map(bool, titles)) == 20_000


# Installed Python


@pytest.mark.heavy
def test_installed_python_knows_its_licences() -> None:
    found = InstalledPythonSource().list_files()
    origins = {file.origin["source"].partition("==")[0]: file.origin for file in found}
    assert origins["python"]["license"] == "PSF-2.0"
    assert origins["msgspec"]["license"].startswith("BSD")
    assert origins["typer"]["license"] == "MIT"
    assert "trunkline" not in origins
    names = [file.name for file in found]
    assert names == sorted(set(names))
    assert {name.split("/")[0] for name in names} == {"stdlib", "site-packages"}
    assert not any("__pycache__" in name for name in names)
    file = next(file for file in found if file.name == "stdlib/json/decoder.py")
    (document,) = InstalledPythonSource().read(file)
    assert isinstance(document, Document) and "class JSONDecoder" in document.text
    assert (document.license, document.url) == ("PSF-2.0", "https://www.python.org")


@pytest.mark.heavy
def test_imports_and_the_working_folder_do_not_show(tmp_path: Path) -> None:
    """Others add folders with distributions of their own to `sys.path`, as importing Ray does."""
    (tmp_path / "stray-1.0.dist-info").mkdir()
    (tmp_path / "stray-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 1.0\n")
    (tmp_path / "stray-1.0.dist-info" / "RECORD").write_text("stray.py,,\n")
    (tmp_path / "stray.py").write_text("x = 1\n")
    code = """
import sys
{}
from pipelines.specs import InstalledPythonSource
print(hash(tuple((f.name, f.stamp, *sorted(f.origin.items())) for f in InstalledPythonSource().list_files())))
"""
    seen = {
        subprocess.run(
            [sys.executable, "-c", code.format(first)],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for first in ("", f"sys.path.append({str(tmp_path)!r})")
    }
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: something else", "MIT OR Apache-2.0"),
        ("License: BSD-3-Clause\nClassifier: License :: OSI Approved :: MIT License", "BSD-3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "MIT License"),
        (f"License: {'a whole text ' * 20}\nClassifier: License :: OSI Approved :: ISC License", "ISC License"),
        (
            "Classifier: License :: OSI Approved :: MIT License\nClassifier: License :: OSI Approved :: Apache License",
            "Apache License AND MIT License",
        ),
        ("Classifier: License :: OSI Approved", "unknown"),
        ("Summary: nothing said", "unknown"),
    ],
)
def test_where_a_licence_is_declared(tmp_path: Path, metadata: str, expected: str) -> None:
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: x\nVersion: 1\n{metadata}\n")
    assert license_of(importlib.metadata.PathDistribution(tmp_path)) == expected


# JSON


def test_fields_go_to_their_places(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl",
        {"text": "one", "url": "https://x", "license": "MIT", "score": 0.5, "tags": ["a"]},
        {"text": "two", "url": None, "license": ["MIT"]},
    )
    documents, _ = read_all(JsonLinesSource(path=str(tmp_path)))
    assert [(d.id, d.text, d.url, d.license, d.metadata) for d in documents] == [
        ("a.jsonl#1", "one", "https://x", "MIT", {"score": 0.5, "tags": ["a"]}),
        ("a.jsonl#2", "two", "", "MIT", {"url": None, "license": ["MIT"]}),
    ]


@pytest.mark.parametrize(
    ("fields", "license", "url"),
    [
        ({"license": ["mit", "apache-2.0", None, "mit"]}, "mit AND apache-2.0", ""),
        ({"licenses": ["MIT"], "license": None, "urls": ["https://a", "https://b"]}, "MIT", "https://a"),
        ({"license": {"name": "MIT License", "spdx_id": "MIT"}, "url": {"href": "https://a"}}, "MIT", "https://a"),
        ({"license": [{"key": "isc"}, {"key": ""}], "url": ["", "https://b"]}, "isc", "https://b"),
        ({"license": 3, "url": False}, "", ""),
        ({"license": [], "url": {}}, "", ""),
    ],
)
def test_a_licence_or_address_may_be_a_list_or_an_object(
    tmp_path: Path, fields: dict[str, Any], license: str, url: str
) -> None:
    write(tmp_path / "a.jsonl", {"text": "x", **fields})
    (document,), broken = read_all(JsonLinesSource(path=str(tmp_path)))
    assert not broken
    assert (document.license, document.url, document.metadata) == (license, url, fields)


def test_lists_of_licences_in_parquet_are_joined(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"], "license": [["mit", "bsd-3-clause"]]}), tmp_path / "a.parquet")
    (document,), _ = read_all(ParquetSource(path=str(tmp_path)))
    assert document.license == "mit AND bsd-3-clause"


def test_ids_and_nested_fields(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"content": {"body": ["x", "y"], "n": 1}, "key": {"id": 7}}, {"content.body": "z"}, {})
    documents, broken = read_all(JsonLinesSource(path=str(tmp_path), text_field="content.body"))
    assert [(d.id, d.text, d.metadata) for d in documents] == [
        ("a.json#1", "x\ny", {"content": {"n": 1}, "key": {"id": 7}}),
        ("a.json#2", "z", {}),
    ]
    assert [(b.id, b.position) for b in broken] == [("a.json#3", "line 3")]
    documents, broken = read_all(JsonLinesSource(path=str(tmp_path), text_field="content.body", id_field="key.id"))
    assert [d.id for d in documents] == ["a.json#7"]
    assert [b.reason for b in broken] == ["no_id: field 'key.id' is missing or null"] * 2


def test_a_bad_line_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_objects, "MAX_DOCUMENT_BYTES", 2000)
    monkeypatch.setattr(files.lines, "__defaults__", (2000,))
    deep = "[" * 900 + "]" * 900
    rows = [
        '{"text": "a"}',
        '{"text": "b',
        "",
        "[1]",
        '{"text": 3}',
        '{"body": "x", "id": 1}',
        '{"a": 1} x',
        "  ",
        deep,
    ]
    rows += ['{"text": "%s"}' % ("x" * 3000), '{"text": "z"}']
    write(tmp_path / "a.jsonl", *rows)
    documents, broken = read_all(JsonLinesSource(path=str(tmp_path)))
    assert [d.id for d in documents] == ["a.jsonl#1", "a.jsonl#11"]
    assert {b.position: b.reason for b in broken} == {
        "line 2": "not JSON: Unterminated string starting at at character 10",
        "line 4": "not an object but list",
        "line 5": "no_text: field 'text' is no string but int",
        "line 6": "no_text: field 'text' is missing or null; there is 'body', 'id'",
        "line 7": "not JSON: Extra data at character 10",
        "line 9": "not an object but list",
        "line 10": "record_size: more than 2000 bytes",
    }
    assert all(b.id == f"a.jsonl#{b.position.removeprefix('line ')}" for b in broken)


def test_what_others_write_as_json(tmp_path: Path) -> None:
    rows = [
        b'\xef\xbb\xbf{"text": "mark", "loss": NaN, "max": 1e999}\r\n',
        b'{"text": "half \\ud83d of a pair"}\n',
        b'{"text": "tab\there", "big": 123456789012345678901234567890}\n',
        '{"text": "这是一个国家的时代，人们来了"}\n'.encode("gb18030"),
        b'{"text": "caf\xc3\xa9s and caf\xe9"}\n',
        b'{"text": "nul \0"}\n',
        b'{"text": "last"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"".join(rows))
    documents, broken = read_all(JsonLinesSource(path=str(tmp_path)))
    assert [(d.text, d.metadata) for d in documents] == [
        ("mark", {"loss": None, "max": None}),
        ("half \ufffd of a pair", {"replacement_characters": 1}),
        ("tab\there", {"big": 123456789012345678901234567890}),
        ("这是一个国家的时代，人们来了", {"encoding": "gb18030"}),
        ("cafés and caf\ufffd", {"replacement_characters": 1}),
        ("last", {}),
    ]
    assert [b.reason for b in broken] == ["not JSON: binary: NUL at byte 14"]


RECORD = st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.text(max_size=30), st.lists), max_size=4)


@pytest.mark.heavy
@settings(max_examples=30)
@given(st.lists(RECORD, max_size=8), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 40))
def test_arrays_and_spread_objects(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, ascii_only: bool, buffer_bytes: int
) -> None:
    """However a file is laid out and wherever the buffers end, its objects are the same."""
    path = tmp_path_factory.mktemp("json") / "a.json"

    def dump(value: object) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    layouts = [dump(rows), "\n".join(map(dump, [{"a": 1, "b": 2}, *rows]))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_objects, "BUFFER_BYTES", buffer_bytes)
        for layout, expected in zip(layouts, [rows, [{"a": 1, "b": 2}, *rows]], strict=True):
            path.write_text(layout, encoding="utf-8")
            found = list(json_objects.objects(SourceFile("a.json", str(path), 0, "")))
            assert [value for _, value in found] == expected
            assert [number for number, _ in found] == list(range(1, len(expected) + 1))


JSON_LINES = st.lists(
    st.sampled_from(
        ['{"text": "a"}', "", "  ", '{"text": "é中"}', '{"text": 3}', "no", "[1]", '{"text": "%s"}' % ("x" * 90)]
    )
)


@settings(max_examples=200)
@given(
    rows=JSON_LINES,
    ends=st.booleans(),
    mark=st.booleans(),
    cuts=st.lists(st.integers(0, 400)),
    buffer_bytes=st.sampled_from([1, 7, 64, 1 << 20]),
)
def test_ranges_hold_every_line_once(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[str],
    ends: bool,
    mark: bool,
    cuts: list[int],
    buffer_bytes: int,
) -> None:
    """Wherever a file of lines is cut, lines longer than the limit and cuts within them included."""
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    data = codecs.BOM_UTF8 * mark + "\n".join(['{"text": "first"}', *rows]).encode() + b"\n" * ends
    path.write_bytes(data)
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_objects, "MAX_DOCUMENT_BYTES", 60)
        patch.setattr(files.lines, "__defaults__", (60,))
        patch.setattr(files.lines_between, "__defaults__", (60,))
        patch.setattr(files, "BUFFER_BYTES", buffer_bytes)
        whole = list(json_objects.objects(SourceFile("a.jsonl", str(path), len(data), "")))
        cut = [
            found
            for start, stop in itertools.pairwise(bounds)
            for found in json_objects.objects(
                SourceFile("a.jsonl", str(path), stop - start, "", start=start, stop=stop)
            )
        ]
    begins = [0, *(number + 1 for number, byte in enumerate(data) if byte == 10)]
    assert [number for number, _ in cut] == [begins[number - 1] for number, _ in whole]
    for (_, one), (number, other) in zip(whole, cut, strict=True):
        if isinstance(one, Broken):
            assert isinstance(other, Broken)
            assert (other.reason, other.position, other.id) == (one.reason, f"byte {number}", f"a.jsonl#{number}")
        else:
            assert other == one


@pytest.mark.parametrize("place", ["local", "memory://large"])
def test_a_large_file_of_lines_is_read_in_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(json_objects, "SPLIT_BYTES", 10_000)
    monkeypatch.setattr(json_objects, "RANGE_BYTES", 3_000)
    rows = [json.dumps({"text": f"text {number} " * (1 + number % 9)}) for number in range(600)]
    rows[77] = "{broken"
    folder = Location(str(tmp_path) if place == "local" else place)
    folder.write_bytes("a.jsonl", "\n".join(rows).encode())
    folder.write_bytes("b.jsonl", json.dumps([json.loads(row) for row in rows if row != "{broken"]).encode())
    folder.write_bytes("c.jsonl.gz", gzip.compress("\n".join(rows).encode(), 0))
    listed = JsonLinesSource(path=folder.url).list_files()
    assert [(file.name, bool(file.stop)) for file in listed] == [
        *[("a.jsonl", True)] * len([file for file in listed if file.name == "a.jsonl"]),
        ("b.jsonl", False),
        ("c.jsonl.gz", False),
    ]
    assert len(listed) > 6 and all(file.size_bytes <= 3_000 for file in listed if file.stop)
    documents, broken = read_all(JsonLinesSource(path=folder.url))
    texts = {name: [d.text for d in documents if d.id.startswith(name)] for name in ("a.", "b.", "c.")}
    assert texts["a."] == texts["b."] == texts["c."]
    assert len(texts["a."]) == 599 and len({d.id for d in documents}) == len(documents)
    offset = len("\n".join(rows[:77]).encode()) + 1
    assert [b.position for b in broken if b.id.startswith("a.") and b.reason.startswith("not JSON")] == [
        f"byte {offset}"
    ]


def test_a_large_array_streams(tmp_path: Path) -> None:
    rows = [{"text": f"行 {i} " * 50, "n": i} for i in range(20_000)]
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows, ensure_ascii=False).encode(), 1))
    documents, broken = read_all(JsonLinesSource(path=str(path)))
    assert [d.metadata["n"] for d in documents] == list(range(20_000)) and not broken
    assert (documents[-1].id, documents[-1].text) == ("a.json.gz#20000", rows[-1]["text"])


@pytest.mark.parametrize(
    ("text", "read", "reason"),
    [
        ('[{"text": "a"}, {"text": "b"}', 2, "record 3 at byte 29: not JSON: the file was cut off"),
        ('[{"text": "a"}, {"text": "b"', 1, "record 2 at byte 16: not JSON: Expecting ',' delimiter"),
        ('[{"text": "a"}, {"text" "b"}, {"text": "c"}]', 1, "record 2 at byte 16: not JSON: Expecting ':' delimiter"),
        ('[{"text": "a"}] [', 1, "something follows the end of the array"),
        ('{\n "text": "a"}\n{\n "text": ', 1, "record 2 at byte 16: not JSON: Expecting value"),
        (
            '[\n{"text": "a"}\n{"text": "b"}]',
            1,
            "record 2 at byte 16: not JSON: a comma is missing in front of it (line 3)",
        ),
        ('[{"text": "a"} {"text": "b"},,,]', 1, "record 2 at byte 15: not JSON: a comma is missing"),
        ('[{"text": "a"},\n,{"text": "b"}]', 1, "a value is missing between two commas (line 1)"),
        ('[,{"text": "a"}]', 0, "a value is missing between two commas"),
        ('[{"text": "a"}]\n[{"text": "b"}]', 1, "something follows the end of the array (line 1)"),
        ('[{"text": "a"}]\n\n{"text": "b"}', 1, "something follows the end of the array"),
        ("[{'text': 'a'}]", 0, "record 1 at byte 1: not JSON: Expecting property name enclosed in double quotes"),
        ('[{"text": "a"}, {"text": "b"}}]', 2, "record 3 at byte 29: not JSON: "),
        ('[{"text": "a"}, nothing, {"text": "b"}]', 1, "record 2 at byte 16: not JSON: Expecting value"),
    ],
)
def test_an_array_that_breaks_off(tmp_path: Path, text: str, read: int, reason: str) -> None:
    (tmp_path / "a.json").write_text(text)
    found, error = read_until_raised(JsonLinesSource(path=str(tmp_path)))
    assert len(found) == read and reason in error


def test_files_that_cannot_be_read_to_their_end(tmp_path: Path) -> None:
    rows = [{"text": str(i) * 5, "noise": i * 7919**3 % 10**9} for i in range(20_000)]
    cut = write(tmp_path / "a.jsonl.gz", *rows)
    cut.write_bytes(cut.read_bytes()[:-1000])
    found, error = read_until_raised(JsonLinesSource(path=str(cut)))
    assert len(found) > 10_000 and not any(isinstance(record, Broken) for record in found) and "cut off" in error


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("layout", ["\n".join, lambda rows: f"[{', '.join(rows)}]", lambda rows: f" {rows[0]}\n"])
def test_json_in_wide_encodings(tmp_path: Path, encoding: str, layout: Callable[[list[str]], str]) -> None:
    rows = [json.dumps({"text": f"中文 {number} 😀"}, ensure_ascii=False) for number in range(3000)]
    (tmp_path / "a.jsonl").write_bytes(layout(rows).encode(encoding))
    documents, broken = read_all(JsonLinesSource(path=str(tmp_path)))
    assert (len(documents), broken) == (1 if layout(rows).startswith(" ") else 3000, [])
    assert documents[-1].text.startswith("中文") and documents[-1].text.endswith("😀")


def test_a_last_line_that_is_not_finished_ends_the_file(tmp_path: Path) -> None:
    for name, tail in {"cut": '{"text": "b', "odd": '{"text" "b"}', "whole": '{"text": "b"}', "bad": "x\n"}.items():
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a"}\n' + tail)
    _, broken = read_all(JsonLinesSource(path=str(tmp_path)))
    assert {b.id: b.ends_file for b in broken} == {"bad.jsonl#2": False, "cut.jsonl#2": True, "odd.jsonl#2": False}


@pytest.mark.parametrize(
    ("name", "text_field", "count", "empty"),
    [
        ("redpajama_like/llama-factory/data/c4_demo.jsonl", "text", 300, 0),
        ("redpajama_like/dolma/tests/data/multiple_files", "text", 40, 0),
        ("redpajama_like/dolma/tests/data/provided", "text", 30, 0),
        ("redpajama_like/data-juicer/demos/data", "text", 14, 0),
        ("code/codealpaca/data/code_alpaca_2k.json", "output", 2017, 2),
        ("code/codexglue/Text-Code/NL-code-search-WebQuery/CoSQA/cosqa-dev.json", "code", 604, 0),
        ("code/codexglue/Text-Code/text-to-code/dataset/concode/test.json", "nl", 2000, 0),
        ("zh/chinese-poetry/四书五经", "paragraphs", 16, 0),
        ("zh/chinese-poetry/宋词", "paragraphs", 2000, None),
        ("zh/chinese-poetry/全唐诗", "paragraphs", 4803, None),
        ("zh/chinese-poetry/论语", "paragraphs", 20, 0),
        ("zh/chinese-poetry/曹操诗集", "paragraphs", 26, 0),
        ("zh/chinese-poetry/诗经", "content", 305, 0),
        ("zh/chinese-poetry/strains", "strains", 1000, None),
    ],
)
def test_real_json(name: str, text_field: str, count: int, empty: int | None) -> None:
    documents, broken = read_all(JsonLinesSource(path=shared(name), text_field=text_field))
    assert (len(documents), broken) == (count, [])
    assert len({d.id for d in documents}) == count
    assert empty is None or sum(not d.text for d in documents) == empty


# Code and Parquet


def test_real_code_in_codeparrots_layout() -> None:
    documents, broken = read_all(CodeSource(path=shared("code/local_python")))
    assert (len(documents), broken) == (940, [])
    assert sum(not d.text for d in documents) == 13
    assert 940 - len({d.text for d in documents}) >= 39
    first = documents[0]
    assert first.id == "file-000000000000.json.gz#python/cpython@3.11.7/Lib/__future__.py"
    assert (len(first.text.encode()), first.metadata["size"], first.license != "") == (5218, "5218", True)
    assert set(first.metadata) == {"repo_name", "path", "copies", "size"}


def test_code_without_a_path_is_numbered(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"content": "x = 1", "repo_name": "r"}, {"path": "a.py"}, "{")
    documents, broken = read_all(CodeSource(path=str(tmp_path)))
    assert [d.id for d in documents] == ["a.json#1"]
    assert [b.reason.partition(":")[0] for b in broken] == ["no_text", "not JSON"]


def test_parquet(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 1, 2)
    table = pa.table(
        {
            "text": [f"text {i}" if i % 100 else None for i in range(1, 1001)],
            "key": [f"k{i}" for i in range(1000)],
            "url": ["https://x"] * 1000,
            "when": [day] * 1000,
            "score": [float("nan"), *[0.5] * 999],
            "nested": [{"at": day, "values": [1.0, float("inf")]}] * 1000,
            "image": [b"bytes"] * 1000,
            "n": list(range(1000)),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    documents, broken = read_all(ParquetSource(path=str(tmp_path)))
    assert (len(documents), len(broken)) == (990, 10)
    assert (broken[0].id, broken[0].position) == ("a.parquet#100", "row 100")
    assert (documents[0].id, documents[0].text, documents[0].url) == ("a.parquet#1", "text 1", "https://x")
    assert documents[0].metadata == {
        "key": "k0",
        "when": str(day),
        "score": None,
        "nested": {"at": str(day), "values": [1.0, None]},
        "n": 0,
    }
    assert documents[-1].metadata["n"] == 998
    documents, _ = read_all(ParquetSource(path=str(tmp_path), id_field="key"))
    assert documents[-1].id == "a.parquet#k998"


def test_odd_parquet(tmp_path: Path) -> None:
    """What other writers make: texts as bytes, columns of one name, values that Python cannot hold, nested ones."""
    binary = pa.array([b"one", "zw\u00f6lf".encode(), None, b"\xff"], pa.binary())
    pq.write_table(
        pa.table({"text": binary, "key": pa.array([b"a", b"b", b"c", b"d"]), "url": pa.array([b"https://x"] * 4)}),
        tmp_path / "a.parquet",
    )
    documents, broken = read_all(ParquetSource(path=str(tmp_path / "a.parquet"), id_field="key"))
    assert [(d.id, d.text, d.url) for d in documents] == [
        ("a.parquet#a", "one", "https://x"),
        ("a.parquet#b", "zw\u00f6lf", "https://x"),
        ("a.parquet#d", "\ufffd", "https://x"),
    ]
    assert [b.position for b in broken] == ["row 3"]
    twice = pa.Table.from_arrays([pa.array(["a", "b"]), pa.array([1, 2]), pa.array([3, 4])], ["text", "n", "n"])
    pq.write_table(twice, tmp_path / "b.parquet")
    documents, broken = read_all(ParquetSource(path=str(tmp_path / "b.parquet")))
    assert [(d.text, d.metadata) for d in documents] == [("a", {"n": 1}), ("b", {"n": 2})] and not broken
    odd = {
        "text": pa.array(["x", "y"]).dictionary_encode(),
        "large": pa.array(["long", None], pa.large_string()),
        "ns": pa.array([1, 2], pa.timestamp("ns")),
        "far": pa.array([2**40, 0], pa.timestamp("s")),
        "day": pa.array([datetime.date(2024, 2, 29), None]),
        "money": pa.array([decimal.Decimal("1.50"), None]),
        "span": pa.array([1, 2], pa.duration("ns")),
        "none": pa.nulls(2),
        "deep": pa.array([{"a": [{"b": b"\xff", "c": {"d": float("inf")}}]}, None]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "bad": pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\3\0\0\0\5\0\0\0"), pa.py_buffer(b"\xe9t\xe9ok")),
    }
    pq.write_table(pa.table(odd), tmp_path / "c.parquet")
    documents, broken = read_all(ParquetSource(path=str(tmp_path / "c.parquet")))
    assert ([d.text for d in documents], broken) == (["x", "y"], [])
    first = documents[0].metadata
    assert (first["large"], first["day"], first["money"], first["none"]) == ("long", "2024-02-29", "1.50", None)
    assert first["ns"] and first["far"] and first["span"] and first["bad"] == "\ufffdt\ufffd"
    assert documents[1].metadata["bad"] == "ok"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    assert read_all(ParquetSource(path=str(tmp_path / "d.parquet"))) == ([], [])
    (tmp_path / "packed.parquet.gz").write_bytes(gzip.compress((tmp_path / "b.parquet").read_bytes()))
    documents, _ = read_all(ParquetSource(path=str(tmp_path / "packed.parquet.gz")))
    assert [d.text for d in documents] == ["a", "b"]
    lists = pa.table({"body": pa.array([{"parts": ["a", "b"]}, {"parts": None}])})
    pq.write_table(lists, tmp_path / "e.parquet")
    documents, broken = read_all(ParquetSource(path=str(tmp_path / "e.parquet"), text_field="body.parts"))
    assert ([d.text for d in documents], len(broken)) == (["a\nb"], 1)


def test_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x" * 50] * 1000, "n": list(range(1000))}), path)
    assert "no column 'text' of texts among body, n" in read_until_raised(ParquetSource(path=str(path)))[1]
    path.write_bytes(path.read_bytes()[:-100])
    assert "Parquet" in read_until_raised(ParquetSource(path=str(path), text_field="body"))[1]


# RedPajama

META = {
    "common_crawl": {"source": "cc/2019-30/en_middle_0053.json.gz/line303947", "url": "https://a.example/x"},
    "c4": {"url": "https://c.example", "timestamp": "2019-04-25T12:57:54Z", "language": "en", "source": "c4"},
    "github": {"repo_name": "o/r", "path": "a.py", "license": "mit", "id": "af0c", "language": [{"name": "Python"}]},
    "book": {"title": "Emma", "short_book_title": "Emma", "publication_date": 1815, "url": "https://g.example"},
    "arxiv": {"arxiv_id": "2208.13940", "language": "en", "timestamp": "2022", "yymm": "2208", "url": "https://ar"},
    "wikipedia": {"title": "Ada", "url": "https://w.example", "language": "en", "timestamp": "20230320"},
    "stackexchange": {"language": "en", "url": "https://s.example", "source": "stackexchange", "question_score": "5"},
}


@pytest.mark.parametrize("form", [lambda meta: meta, json.dumps, repr], ids=["object", "json", "python"])
def test_redpajama_v1(tmp_path: Path, form: Callable[[object], object]) -> None:
    for name, meta in META.items():
        write(tmp_path / name / "part.jsonl", {"text": name, "meta": form(meta), "red_pajama_subset": name})
    documents, broken = read_all(RedPajamaSource(path=str(tmp_path)))
    assert (len(documents), broken) == (7, [])
    by_slice = {d.text: d for d in documents}
    assert by_slice["arxiv"].id == "arxiv/part.jsonl#2208.13940"
    assert by_slice["github"].id == "github/part.jsonl#af0c"
    assert by_slice["c4"].id == "c4/part.jsonl#1"
    for name, meta in META.items():
        document = by_slice[name]
        expected = {k: v for k, v in meta.items() if k not in ("url", "license", "id", "arxiv_id")}
        assert document.metadata == expected | {"red_pajama_subset": name}
        assert (document.url, document.license) == (meta.get("url", ""), meta.get("license", ""))


def test_a_meta_that_nothing_can_read_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"text": "x", "meta": "{'open"}, {"text": "y"}, {"meta": {"text": "of meta"}})
    documents, broken = read_all(RedPajamaSource(path=str(tmp_path)))
    assert [(d.text, d.metadata) for d in documents] == [("x", {"meta": "{'open"}), ("y", {}), ("of meta", {})]
    assert not broken


def test_meta_of_python_that_json_does_not_know(tmp_path: Path) -> None:
    metas = [
        "{'tags': {'b', 'a'}, 'none': set()}",
        "{'raw': b'abc', 'bad': b'\\xff'}",
        "{1: 2, 'a': (3, 4.5), None: True}",
        "{'half': '\\ud800', 'huge': 1e999}",
        "{'when': datetime.datetime(2020, 1, 1)}",
        "{'score': nan}",
        "{'deep': " + "[" * 150 + "]" * 150 + "}",
        '{"half": "\\ud800"}',
    ]
    write(tmp_path / "a.jsonl", *({"text": str(number), "meta": meta} for number, meta in enumerate(metas)))
    documents, broken = read_all(RedPajamaSource(path=str(tmp_path)))
    assert ([d.text for d in documents], broken) == ([str(number) for number in range(len(metas))], [])
    known = [d.metadata for d in documents]
    assert known[0] == {"tags": ["a", "b"], "none": []}
    assert known[1] == {"raw": "abc", "bad": "\ufffd"}
    assert known[2] == {"1": 2, "a": [3, 4.5], "None": True}
    assert known[3] == {"half": "\ufffd", "huge": None}
    assert known[4] == {"meta": metas[4]} and known[5] == {"meta": metas[5]}  # as it is, for it is not data
    assert known[7] == {"half": "\ufffd"}


def test_odd_records_of_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "nan", "x": NaN, "y": -Infinity}\n{"text": "one", "text": "two"}\n{"text": "\\ud800 half"}\n'
        '{"text": "huge", "n": 1' + "0" * 5000 + "}\n"
        '{"text": "deep", "n": ' + "[" * 90_000 + "]" * 90_000 + "}\n"
        '{"text": "last"}\n'
    )
    documents, broken = read_all(JsonLinesSource(path=str(tmp_path)))
    assert [d.text for d in documents] == ["nan", "two", "\ufffd half", "last"]
    assert [b.position for b in broken] == ["line 4", "line 5"]
    for document in documents:
        json.loads(document.row()["metadata"], parse_constant=pytest.fail)


def test_whatever_is_in_it_a_document_becomes_a_row() -> None:
    """What rules of users put into the metadata, too."""
    odd = Document("a", "half \ud83d", metadata={"set": {1}, 2: b"\xff", "nan": float("nan"), "obj": object})
    odd.mend()
    row = odd.row()
    assert row["text"] == "half \ufffd"
    assert json.loads(row["metadata"])["nan"] is None and json.loads(row["metadata"])["replacement_characters"] == 1
    for value in row.values():
        value.encode()


def test_one_record_that_fails_is_that_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def document(file: SourceFile, position: str, number: int, *rest: object) -> Document:
        if number == 2:
            raise KeyError("something of ours")
        return Document(f"{file.name}#{number}", "text")

    monkeypatch.setattr(records, "document", document)
    write(tmp_path / "a.jsonl", *[{"text": "x"}] * 3)
    pq.write_table(pa.table({"text": ["x"] * 3}), tmp_path / "a.parquet")
    for source in (JsonLinesSource(path=str(tmp_path)), ParquetSource(path=str(tmp_path))):
        documents, (broken,) = read_all(source)
        assert len(documents) == 2
        assert (broken.id[-2:], broken.position[-2:]) == ("#2", " 2")
        assert broken.reason == "failed: KeyError: 'something of ours'"


def page(i: int) -> dict[str, object]:
    return {"url": f"https://x/{i}", "raw_content": f"page {i}", "digest": "sha1:X", "language": "en", "bucket": "head"}


def signals(i: int) -> dict[str, object]:
    values = {"rps_doc_word_count": [[0, 6, 10.0 * i]], "rps_lines_num_words": [[0, 3, 1], [3, 6, 1]]}
    return {"id": f"2023-06/0000/en_head.json.gz/{i}", "metadata": {"url": f"https://x/{i}"}, "quality_signals": values}


def test_redpajama_v2(tmp_path: Path) -> None:
    folder = "2023-06/0000/en_head"
    write(tmp_path / f"documents/{folder}.json.gz", page(0), page(1), "{", page(3), page(4), page(5))
    beside = [signals(0), "{", signals(2), signals(3), signals(0)]
    write(tmp_path / f"quality_signals/{folder}.signals.json.gz", *beside)
    for path in (tmp_path, tmp_path / "documents"):
        documents, broken = read_all(RedPajamaSource(path=str(path)))
        assert [d.text for d in documents] == ["page 0", "page 1", "page 3", "page 4", "page 5"]
        assert [b.position for b in broken] == ["line 3"]
        assert [d.metadata["quality_signals"] for d in documents] == [
            {"rps_doc_word_count": 0.0},
            "missing: not JSON: Expecting property name enclosed in double quotes at character 2",
            {"rps_doc_word_count": 30.0},
            "missing: the line of signals is another page's",
            "missing: the file of signals is shorter",
        ]
    assert documents[0].id == "2023-06/0000/en_head.json.gz#1"
    assert (documents[0].url, documents[0].metadata["language"]) == ("https://x/0", "en")


def test_redpajama_v2_without_its_signals(tmp_path: Path) -> None:
    write(tmp_path / "documents/a.json.gz", page(0), page(1))
    write(tmp_path / "b.json.gz", page(0))
    packed = write(tmp_path / "quality_signals/c.signals.json.gz", *map(signals, range(2)))
    packed.write_bytes(packed.read_bytes()[:-4])
    write(tmp_path / "documents/c.json.gz", page(0), page(1), page(2))
    documents, broken = read_all(RedPajamaSource(path=str(tmp_path)))
    assert {d.id: d.metadata["quality_signals"] for d in documents} == {
        "b.json.gz#1": "missing: the file is in no folder documents",
        "documents/a.json.gz#1": "missing: No such file or directory",
        "documents/a.json.gz#2": "missing: No such file or directory",
        "documents/c.json.gz#1": {"rps_doc_word_count": 0.0},
        "documents/c.json.gz#2": {"rps_doc_word_count": 10.0},
        "documents/c.json.gz#3": "missing: the compressed file ends in the middle: it was cut off",
    }
    assert not broken


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llm-foundry/arxiv.jsonl", 20),
        ("data-juicer/demos/process_sci_data/data/arxiv.jsonl", 11),
        ("data-juicer/demos/process_code_data/data/stack_exchange.jsonl", 70),
        ("data-juicer/demos/data_mixture/data", 50),
        ("data-juicer/demos/data_process_loop/data", 11),
    ],
)
def test_real_redpajama(name: str, count: int) -> None:
    documents, broken = read_all(RedPajamaSource(path=shared(f"redpajama_like/{name}")))
    assert (len(documents), broken) == (count, [])
    assert len({d.id for d in documents}) == count
    if "arxiv" in name:
        assert all(d.url.startswith("https://arxiv.org/abs/") and d.metadata["language"] == "en" for d in documents)
    if "stack" in name:
        assert Counter(d.text for d in documents).most_common(6)[5][1] == 2  # six texts are there twice


# The Hugging Face hub's layout


def hub_names(path: Path, **fields: str) -> list[str]:
    return [file.name for file in HuggingFaceSource(path=str(path), **fields).list_files()]


def test_shards_of_splits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "test", "train_sft"):
        pq.write_table(pa.table({"body": [split] * 3}), tmp_path / f"data/{split}-00000-of-00001.parquet")
    assert hub_names(tmp_path) == ["data/train-00000-of-00001.parquet"]
    assert hub_names(tmp_path, split="train_sft") == ["data/train_sft-00000-of-00001.parquet"]
    with pytest.raises(InputError, match=r"has no split 'validation'\. It has test, train, train_sft"):
        hub_names(tmp_path, split="validation")
    documents, _ = read_all(HuggingFaceSource(path=str(tmp_path), split="test", text_field="body"))
    assert [(d.id, d.text) for d in documents][2] == ("data/test-00000-of-00001.parquet#3", "test")


def test_folders_of_subsets(tmp_path: Path) -> None:
    for name in ("en/c4-train.00000-of-00002.json.gz", "en/c4-validation.00000-of-00001.json.gz"):
        write(tmp_path / name, {"text": name, "url": "https://x"})
    write(tmp_path / "de/dev.jsonl", {"text": "de"})
    assert hub_names(tmp_path, subset="en") == ["en/c4-train.00000-of-00002.json.gz"]
    assert hub_names(tmp_path, subset="de", split="validation") == ["de/dev.jsonl"]
    with pytest.raises(InputError, match=r"has no subset 'fr'\. It has de, en"):
        hub_names(tmp_path, subset="fr")
    documents, _ = read_all(HuggingFaceSource(path=str(tmp_path), subset="en"))
    assert [(d.text, d.url) for d in documents] == [("en/c4-train.00000-of-00002.json.gz", "https://x")]


def test_without_splits_all_is_training_data(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"text": "a"})
    write(tmp_path / "b.json", {"text": "b"})
    assert hub_names(tmp_path) == ["a.jsonl", "b.json"]
    with pytest.raises(InputError, match="has no split 'test'"):
        hub_names(tmp_path, split="test")


@pytest.mark.parametrize(
    ("declared", "license"),
    [
        ("license:\n- mit\n- apache-2.0", "mit AND apache-2.0"),
        ("license: [cc-by-4.0]", "cc-by-4.0"),
        ("license: other\nlicense_name: my-terms", "my-terms"),
        ("license:", "unknown"),
    ],
)
def test_the_card_may_declare_several_licences(tmp_path: Path, declared: str, license: str) -> None:
    write(tmp_path / "train.jsonl", {"text": "a"})
    (tmp_path / "README.md").write_text(f"---\n{declared}\n---\n")
    (document,), _ = read_all(HuggingFaceSource(path=str(tmp_path)))
    assert document.row()["license"] == license


CARD = """---
license: odc-by
configs:
- config_name: en
  data_files:
  - split: train
    path: [part-*.jsonl, more/*.jsonl]
  - split: heldout
    path: x.jsonl
- config_name: all
  default: true
  data_files: "**/*.jsonl"
---
# A card
"""


def test_the_card_declares_the_files(tmp_path: Path) -> None:
    for name in ("part-1.jsonl", "more/a.jsonl", "x.jsonl"):
        write(tmp_path / name, {"text": name})
    (tmp_path / "README.md").write_text(CARD)
    assert hub_names(tmp_path, subset="en") == ["more/a.jsonl", "part-1.jsonl"]
    assert hub_names(tmp_path, subset="en", split="heldout") == ["x.jsonl"]
    assert hub_names(tmp_path) == ["more/a.jsonl", "part-1.jsonl", "x.jsonl"]
    documents, _ = read_all(HuggingFaceSource(path=str(tmp_path), subset="en", split="heldout"))
    assert [(d.text, d.license) for d in documents] == [("x.jsonl", "odc-by")]
    with pytest.raises(InputError, match=r"has no subset 'fr'\. It has all, en"):
        hub_names(tmp_path, subset="fr")


def test_a_dataset_that_is_not_there() -> None:
    with pytest.raises(InputError, match="is not a folder or file, nor the id of a dataset"):
        HuggingFaceSource(path="/no/such/folder").list_files()


def test_without_the_hub_there_is_one_clear_error() -> None:
    """In a process of its own: the hub's address is read when its client is imported."""
    code = """
from cluster.core.errors import InputError
from pipelines.specs import HuggingFaceSource
try:
    HuggingFaceSource(path="allenai/c4", subset="en").list_files()
except InputError as error:
    print(error)
"""
    environment = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "'allenai/c4' is no folder here, and the hub gave no dataset" in told.stdout
    assert "Connection refused" in told.stdout and "download it and give its folder" in told.stdout
