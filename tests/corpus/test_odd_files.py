"""Files that are packed in a way that is not read, or hold their texts as bytes: read, or refused with the reason."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.core.errors import SpecError
from pipelines.specs import CorpusSpec, HuggingFaceSource, JsonLinesSource, ParquetSource, TextSource
from pipelines.stages.corpus.documents import Broken, Document
from pipelines.stages.corpus.readers.source import Source
from tests.corpus.files import read_file

LINES = b'{"text": "one"}\n{"text": "two"}\n'


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jsonl", data)
    return buffer.getvalue()


def documents(source: Source) -> list[Document]:
    found, error = read_file(source)
    assert not error
    assert all(isinstance(record, Document) for record in found), found
    return [record for record in found if isinstance(record, Document)]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jsonl.zip", zipped(LINES), "it is a zip archive, which is not read: unpack it"),
        ("a.jsonl.gz", zipped(LINES), "it is a zip archive"),
        ("a.jsonl.lz4", b"\x04\x22\x4d\x18" + bytes(30), "compressed with lz4"),
        ("a.jsonl.Z", b"\x1f\x9d\x90abc", "compressed with compress"),
        ("a.jsonl.7z", b"7z\xbc\xaf\x27\x1c" + bytes(30), "a 7z archive"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(LINES, mtime=0), mtime=0), "it is compressed twice: unpack it once"),
        ("a.jsonl.bz2", bz2.compress(gzip.compress(LINES, mtime=0)), "it is compressed twice"),
    ],
)
def test_what_is_packed_otherwise_says_how(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    for place in (tmp_path / name, tmp_path):  # below a folder it is listed, too, and not passed over in silence
        found, error = read_file(JsonLinesSource(path=str(place)))
        assert found == []
        assert error.startswith(reason) or reason in error


def test_a_repository_may_hold_the_same_packed_otherwise(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl.zip").write_bytes(zipped(LINES))
    found, error = read_file(HuggingFaceSource(path=str(tmp_path)))
    assert found == [] and "zip archive" in error
    (tmp_path / "train.jsonl").write_bytes(LINES)
    assert len(documents(HuggingFaceSource(path=str(tmp_path)))) == 2


def test_an_empty_file_that_is_not_compressed_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b""))
    for name in ("a.jsonl", "b.jsonl.gz"):
        assert read_file(JsonLinesSource(path=str(tmp_path / name))) == ([], "")


def parquet(path: Path, table: pa.Table, **fields: str) -> list[Document | Broken]:
    pq.write_table(table, path / "a.parquet")
    found, error = read_file(ParquetSource(path=str(path / "a.parquet"), **fields))  # type: ignore[arg-type]
    assert not error
    return found


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("Müller geht über die Straße.", "windows-1252"), ("plain text in UTF-16", "utf-16-le"), ("zażółć", "utf-8")],
)
def test_bytes_of_parquet_are_decoded_as_those_of_files(tmp_path: Path, text: str, encoding: str) -> None:
    data = ("\ufeff" if encoding == "utf-16-le" else "") + text
    kinds = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.list_(pa.binary())]
    for kind in kinds:
        cell = data.encode(encoding)
        (found,) = parquet(tmp_path, pa.table({"text": pa.array([[cell] if kind == kinds[-1] else cell], kind)}))
        assert isinstance(found, Document)
        assert (found.text, found.metadata.get("encoding", "utf-8")) == (text, encoding)


def test_bytes_that_are_no_text_are_set_aside_and_lost_ones_are_counted(tmp_path: Path) -> None:
    cells = [gzip.compress(b"x" * 99), "Все люди рождаются свободными".encode("cp1251"), b"fine"]
    binary, russian, fine = parquet(tmp_path, pa.table({"text": pa.array(cells, pa.binary())}))
    assert isinstance(binary, Broken) and binary.reason.startswith("no_text: field 'text' is binary: NUL at byte")
    assert isinstance(russian, Document)
    assert russian.metadata["replacement_characters"] > 20
    assert russian.metadata["likely_encoding"] == "windows-1251"
    assert isinstance(fine, Document) and fine.metadata == {}


def test_of_fields_of_one_name_in_a_struct_the_first_counts(tmp_path: Path) -> None:
    both = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["body", "body"])
    (found,) = parquet(tmp_path, pa.table({"c": both}), text_field="c.body")
    assert isinstance(found, Document) and found.text == "a"
    (found,) = parquet(tmp_path, pa.table({"c": both, "text": ["x"]}))
    assert isinstance(found, Document) and found.metadata == {"c": {"body": "a"}}


def test_json_lines_of_a_declared_encoding(tmp_path: Path) -> None:
    text = "Все люди рождаются свободными, и zażółć"
    lines = json.dumps({"text": "Все люди рождаются свободными"}, ensure_ascii=False) + "\n"
    (tmp_path / "a.jsonl").write_bytes(lines.encode("cp1251"))
    (lost,) = documents(JsonLinesSource(path=str(tmp_path / "a.jsonl")))
    assert lost.metadata["likely_encoding"] == "windows-1251" and "\ufffd" in lost.text
    (found,) = documents(JsonLinesSource(path=str(tmp_path / "a.jsonl"), encoding="cp1251"))
    assert (found.text, found.metadata) == ("Все люди рождаются свободными", {})
    (tmp_path / "a.jsonl").write_text("\ufeff" + json.dumps({"text": text}, ensure_ascii=False), encoding="utf-8")
    (found,) = documents(JsonLinesSource(path=str(tmp_path / "a.jsonl"), encoding="cp1251"))  # a mark is surer
    assert found.text == text


@pytest.mark.parametrize("source", [JsonLinesSource, TextSource])
def test_an_encoding_that_is_none_is_refused_before_anything_is_read(source: type[JsonLinesSource]) -> None:
    with pytest.raises(SpecError, match=r"corpus.sources\[0\].encoding: 'nonsense' is no encoding"):
        CorpusSpec(sources=(source(path="x", encoding="nonsense"),)).check()


@pytest.mark.parametrize(
    ("fields", "license"),
    [
        ({"licence": "mit"}, "mit"),
        ({"License": "MIT"}, "MIT"),
        ({"license": '["mit", "gpl-3.0"]'}, "mit AND gpl-3.0"),
        ({"license": "['mit']"}, "mit"),
        ({"max_stars_repo_licenses": ["MIT", "BSD-3-Clause"]}, "MIT AND BSD-3-Clause"),
        ({"license": None, "detected_licenses": ["MIT"]}, "MIT"),
        ({"license": "[no list"}, "[no list"),
    ],
)
def test_a_licence_under_any_of_its_names(tmp_path: Path, fields: dict[str, object], license: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x", **fields}))
    (found,) = documents(JsonLinesSource(path=str(tmp_path / "a.jsonl")))
    assert found.license == license
