"""What a source lists, and the bytes that a file holds behind its compression."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import InputError
from pipelines.specs import JsonLinesSource, TextSource
from pipelines.stages.corpus.documents import Document, SourceFile
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading.files import UNREADABLE, is_compressed, lines, open_stream

RANDOM = random.Random(0)
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def names(source: Source) -> list[str]:
    return [file.name for file in source.list_files()]


def file_of(path: Path) -> SourceFile:
    return TextSource(path=str(path)).list_files()[0]


def fill(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text\n")
    return root


def test_a_folder_is_searched(tmp_path: Path) -> None:
    fill(tmp_path, "b.txt", "a/z.TXT", "a/b/c.txt.gz", "a/d.txt.zst", "no.csv", "a/txt", "x.gz")
    fill(tmp_path, ".git/a.txt", "a/__pycache__/a.txt", "node_modules/a.txt")
    files = TextSource(path=str(tmp_path)).list_files()
    assert [file.name for file in files] == ["a/b/c.txt.gz", "a/d.txt.zst", "a/z.TXT", "b.txt"]
    assert [os.path.relpath(file.path, tmp_path) for file in files] == [file.name for file in files]
    assert {file.size_bytes for file in files} == {5}
    assert names(TextSource(path=f"{tmp_path}/", suffixes=(".csv",))) == ["no.csv"]
    assert names(TextSource(path=f"file://{tmp_path}", suffixes=(".csv",))) == ["no.csv"]


def test_a_glob_and_a_single_file(tmp_path: Path) -> None:
    fill(tmp_path, "2023/a.jsonl", "2023/deep/b.jsonl", "2024/a.jsonl", "2024/a.txt", "odd[1].txt", "input")
    assert names(JsonLinesSource(path=f"{tmp_path}/*/a.jsonl")) == ["2023/a.jsonl", "2024/a.jsonl"]
    assert names(JsonLinesSource(path=f"{tmp_path}/202[34]/*")) == ["2023/a.jsonl", "2024/a.jsonl"]
    assert names(JsonLinesSource(path=f"{tmp_path}/2023/**/*.jsonl")) == ["a.jsonl", "deep/b.jsonl"]
    assert names(TextSource(path=f"{tmp_path}/odd[1].txt")) == ["odd[1].txt"]
    assert names(TextSource(path=f"{tmp_path}/input")) == ["input"]  # named, so whatever it ends in


def test_the_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = fill(tmp_path, "a.txt") / "a.txt"
    before = file_of(path)
    os.utime(path, ns=(1, 1))
    assert before.stamp != file_of(path).stamp == "1"


def test_links_are_followed_but_not_round_and_round(tmp_path: Path) -> None:
    fill(tmp_path / "data", "a.txt", "sub/b.txt")
    fill(tmp_path / "elsewhere", "c.txt")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/sub/up").symlink_to(tmp_path / "data")
    assert names(TextSource(path=str(tmp_path / "data"))) == ["a.txt", "linked/c.txt", "sub/b.txt"]


@pytest.mark.parametrize("reader", [TextSource, JsonLinesSource])
def test_what_is_no_file_is_listed_and_refused(tmp_path: Path, reader: type[Source]) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "itself.txt").symlink_to(tmp_path / "itself.txt")
    source = reader(path=str(tmp_path), suffixes=(".txt",))
    reasons = {}
    for file in source.list_files():
        assert file.size_bytes == -1
        with pytest.raises(OSError) as caught:
            list(source.read(file))
        reasons[file.name] = caught.value.strerror
    assert reasons == {
        "pipe.txt": "not a regular file",
        "dangling.txt": "No such file or directory",
        "itself.txt": "Too many levels of symbolic links",
    }


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    (file,) = TextSource(path=str(tmp_path)).list_files()
    assert file.name == "caf\\xe9.txt"
    assert open_stream(file).read() == b"x"


def test_errors_name_the_path_and_the_remedy(tmp_path: Path) -> None:
    fill(tmp_path, "a.csv")
    for missing in (f"{tmp_path}/none", f"{tmp_path}/none/*.txt", ""):
        with pytest.raises(InputError, match=r"corpus\.sources: path .* is not a folder or file.*Give a file"):
            TextSource(path=missing).list_files()
    with pytest.raises(InputError, match=r"corpus\.sources: no file of path .* ends in \.txt or \.md.*suffixes"):
        TextSource(path=str(tmp_path)).list_files()
    with pytest.raises(InputError, match=r"cannot be listed: .*Protocol not known: nothing"):
        TextSource(path="nothing://bucket/x").list_files()


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    """Not even root lists a folder whose path is longer than the system allows."""
    code = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(20):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    fill(tmp_path, "a.txt")
    with pytest.raises(InputError, match="File name too long"):
        TextSource(path=str(tmp_path)).list_files()
    remove = "import shutil, sys; shutil.rmtree(sys.argv[1])"  # by file descriptors, from below
    subprocess.run([sys.executable, "-c", remove, str(tmp_path / ("d" * 250))], check=True)


@pytest.mark.parametrize("ending", PACK)
def test_compressed_files(tmp_path: Path, ending: str) -> None:
    text = RANDOM.randbytes(40_000).hex().encode()
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(PACK[ending](text[:50_000]) + PACK[ending](b"") + PACK[ending](text[50_000:]))
    with open_stream(file_of(path)) as stream:
        assert stream.read() == text
    path.write_bytes(b"")
    with open_stream(file_of(path)) as stream:
        assert stream.read() == b""


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_what_comes_before_damage_is_read(tmp_path: Path, ending: str, damage: str) -> None:
    rows = [RANDOM.randbytes(40).hex().encode() + b"\n" for _ in range(30_000)]
    packed = bytearray(b"".join(PACK[ending](b"".join(rows[i : i + 3000])) for i in range(0, len(rows), 3000)))
    if damage == "cut":
        del packed[-5:]
    else:
        packed[-2000:-1000] = bytes(1000)
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(packed)
    read: list[bytes] = []
    with pytest.raises(UNREADABLE, match="cut off" if damage == "cut" else "damaged"):
        for _, line in lines(open_stream(file_of(path))):
            read.append(line)
    assert rows[: len(read)] == read
    assert len(read) >= 25_000  # all but a few of the last frame


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2", "a.jsonl.xz", "a.JSONL.GZ"])
@pytest.mark.parametrize("packed", ["", *PACK])
def test_first_bytes_count_and_not_names(tmp_path: Path, name: str, packed: str) -> None:
    rows = b'{"text": "one"}\n{"text": "two"}\n'
    (tmp_path / name).write_bytes(PACK[packed](rows) if packed else rows)
    file = file_of(tmp_path / name)
    assert is_compressed(file) == bool(packed)
    with open_stream(file) as stream:
        assert stream.read() == rows
    (tmp_path / name).write_bytes(b"")
    assert open_stream(file).read() == b""


def test_what_is_called_compressed_may_be_plain_or_damaged(tmp_path: Path) -> None:
    plain = {"a.tar.gz": tar_of("x.txt", b"text"), "a.txt.gz": "déjà".encode("utf-16"), "b.txt.xz": b"BZh is no bzip2"}
    for name, data in plain.items():
        (tmp_path / name).write_bytes(data)
        assert open_stream(file_of(tmp_path / name)).read() == data
    (tmp_path / "c.txt.gz").write_bytes(b"\x1e" + gzip.compress(b"text" * 99)[1:])
    with pytest.raises(UNREADABLE, match="damaged: it begins with 1e 8b 08 00"):
        open_stream(file_of(tmp_path / "c.txt.gz"))


def tar_of(name: str, data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def test_frames_that_other_tools_write(tmp_path: Path) -> None:
    """Padding behind gzip (tapes), and skippable frames of zstd (pzstd)."""
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a") + bytes(1000) + gzip.compress(b"b") + bytes(20_000))
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    (tmp_path / "a.txt.zst").write_bytes(skippable + PACK[".zst"](b"a") + skippable + PACK[".zst"](b"b"))
    for file in TextSource(path=str(tmp_path)).list_files():
        assert open_stream(file).read() == b"ab"


def test_a_packed_tar_is_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(fill(tmp_path, "x.txt") / "x.txt", "x.txt")
    with open_stream(file_of(tmp_path / "a.tar.gz")) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        assert [member.name for member in tar] == ["x.txt"]


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\x01", b"\n")), st.integers(1, 20))
def test_lines_and_their_limit(data: bytes, limit: int) -> None:
    expected = [line if len(line) <= limit else line[: limit + 1] for line in io.BytesIO(data).readlines()]
    found = list(lines(io.BytesIO(data), limit))
    assert [line for _, line in found] == expected
    assert [number for number, _ in found] == list(range(1, len(expected) + 1))


@pytest.fixture(scope="module")
def bucket(s3_server: None) -> str:
    import s3fs

    fs = s3fs.S3FileSystem()
    fs.mkdir("crawl")
    rows = b"".join(b'{"text": "row %d"}\n' % i for i in range(100))
    fs.pipe_file("crawl/raw/a.jsonl.gz", gzip.compress(rows))
    fs.pipe_file("crawl/raw/deep/b.jsonl", rows[:36])
    fs.pipe_file("crawl/raw/.hidden/c.jsonl", rows)
    fs.pipe_file("crawl/raw/empty/", b"")
    return "s3://crawl/raw"


@pytest.mark.heavy
def test_an_object_store(bucket: str) -> None:
    source = JsonLinesSource(path=bucket)
    files = source.list_files()
    assert [file.name for file in files] == ["a.jsonl.gz", "deep/b.jsonl"]
    assert all(file.stamp for file in files) and files[1].size_bytes == 36
    documents = [document for file in files for document in source.read(file)]
    assert len(documents) == 102
    assert isinstance(documents[-1], Document) and documents[-1].id == "deep/b.jsonl#2"
    assert names(JsonLinesSource(path=f"{bucket}/*/b.jsonl")) == ["deep/b.jsonl"]
    assert names(JsonLinesSource(path=f"{bucket}/deep/b.jsonl")) == ["b.jsonl"]
    for missing in (f"{bucket}/none", "s3://none/x"):
        with pytest.raises(InputError, match="is not a folder or file"):
            JsonLinesSource(path=missing).list_files()
