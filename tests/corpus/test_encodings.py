"""Bytes become the text that they were, whatever the encoding, or say what they are."""

from __future__ import annotations

import codecs
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.encodings import Decoded, decode
from tests.conftest import SHARED_DATA

CHINESE = "数据引擎读取原始文本，清洗之后交给下一个阶段。人们不知道它在哪里运行。"
LATIN = [
    "L'été dernier, à la fenêtre, un garçon très âgé.",
    "Größe und Übermut",
    "“quotes” – and — dashes’",
    "s = 'café'",
]


@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"])))
def test_utf8_stays_as_it_is(text: str) -> None:
    if not text.startswith("\ufeff"):
        assert decode(text.encode()) == Decoded(text, "utf-8", 0)


@given(st.binary())
def test_any_bytes_become_text_or_are_binary(data: bytes) -> None:
    try:
        text, _, replaced = decode(data)
    except ValueError as error:
        assert b"\0" in data and str(error).startswith("binary: NUL at byte ")
    else:
        assert 0 <= replaced <= text.count("\ufffd") and not any("\ud800" <= c <= "\udfff" for c in text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_byte_order_marks(encoding: str) -> None:
    assert decode(("\ufeff" + CHINESE).encode(encoding)) == Decoded(CHINESE, encoding, 0)
    assert decode("\ufeff".encode(encoding)) == Decoded("", encoding, 0)
    assert decode(("\ufeffab\ufffd" + CHINESE).encode(encoding)).replaced == 0


@pytest.mark.parametrize("text", [CHINESE, CHINESE * 40, "標題：\r\n這是一個國家的時代。"])
def test_gb18030(text: str) -> None:
    assert decode(text.encode("gb18030")) == Decoded(text.replace("\r\n", "\n"), "gb18030", 0)


def test_a_broken_byte_does_not_hide_gb18030() -> None:
    text, encoding, replaced = decode((CHINESE * 10).encode("gb18030") + b"\xff\n")
    assert (text, encoding, replaced) == (CHINESE * 10 + "\ufffd\n", "gb18030", 1)


@pytest.mark.parametrize("text", LATIN)
def test_windows_1252(text: str) -> None:
    assert decode(text.encode("windows-1252")) == Decoded(text, "windows-1252", 0)


def test_damaged_utf8_is_counted() -> None:
    assert decode("né à Genève".encode()[:-1] + b"\xe8") == Decoded("né à Genèv\ufffd", "utf-8", 1)
    assert decode(CHINESE.encode()[:-1]) == Decoded(CHINESE[:-1] + "\ufffd", "utf-8", 1)
    assert decode(("\ufffd" + CHINESE).encode() + b"\xff").replaced == 1  # one was written so


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("Съешь же ещё этих мягких французских булок", "cp1251"), ("これは日本語のテキストです。", "shift_jis")],
)
def test_other_encodings_are_not_taken_for_these(text: str, encoding: str) -> None:
    text, encoding, replaced = decode(text.encode(encoding))
    assert encoding == "utf-8" and replaced > len(text) / 3


def test_line_ends_and_nul() -> None:
    assert decode(b"a\r\nb\rc\n").text == "a\nb\rc\n"
    with pytest.raises(ValueError, match="binary: NUL at byte 2"):
        decode(b"ab\0c")


def test_pythons_own_samples() -> None:
    """CPython's test suite carries the same texts in many encodings."""
    folder = Path(sysconfig.get_path("stdlib")) / "test" / "cjkencodings"
    if not folder.is_dir():
        pytest.skip("this Python has no test suite")
    for name in ("gb18030", "gbk", "gb2312"):
        expected = (folder / f"{name}-utf8.txt").read_text(encoding="utf-8")
        assert decode((folder / f"{name}.txt").read_bytes()) == Decoded(expected, "gb18030", 0)
    for name in ("big5", "euc_kr", "euc_jp", "shift_jis", "johab"):
        assert decode((folder / f"{name}.txt").read_bytes()).encoding == "utf-8"


def test_real_texts_in_gb18030() -> None:
    path = SHARED_DATA / "zh/thucnews/dev.txt"
    if not path.is_file():
        pytest.skip("../shared/data/zh is missing")
    titles = path.read_text(encoding="utf-8").splitlines()
    for i in range(0, len(titles), 50):
        text = "\n".join(titles[i : i + 50])
        assert decode(text.encode("gb18030")) == Decoded(text, "gb18030", 0)


def test_gutenberg_has_byte_order_marks() -> None:
    folder = SHARED_DATA / "redpajama_like/gutenberg"
    if not folder.is_dir():
        pytest.skip("../shared/data/redpajama_like is missing")
    for path in folder.rglob("*.txt"):
        data = path.read_bytes()
        expected = data.removeprefix(codecs.BOM_UTF8).decode("utf-8").replace("\r\n", "\n")
        assert decode(data) == Decoded(expected, "utf-8", 0)
