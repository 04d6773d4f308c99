"""Bytes become the text that they were, whatever the encoding, or say what they are."""

from __future__ import annotations

import codecs
import struct
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.corpus.reading.encodings import Decoded, decode, hint
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


POLISH = "Zażółć gęślą jaźń. Wszystko będzie dobrze, a łąka jest zielona."
TURKISH = "Şu anda İstanbul'da yağmur yağıyor ve herkes ışığı görüyor."
IN_OTHER_ENCODINGS = [
    (POLISH, "cp1250"),
    (POLISH, "iso-8859-2"),
    ("Dzień dobry, to jest dość krótki tekst.", "cp1250"),
    ("Příliš žluťoučký kůň úpěl ďábelské ódy.", "cp1250"),
    ("Příliš žluťoučký kůň úpěl ďábelské ódy.", "iso-8859-2"),
    ("Árvíztűrő tükörfúrógép, és még több szöveg.", "iso-8859-2"),
    ("Această carte este foarte frumoasă şi uşoară, însă veţi vedea.", "cp1250"),
    ("Ova ćudljiva žaba čeka đaka u šumi.", "cp1250"),
    (TURKISH, "cp1254"),
    (TURKISH, "iso-8859-9"),
    ("Ąžuolas auga prie namų, šalia ežero.", "cp1257"),
    ("Prix : 10 €, œuvre, Š", "iso-8859-15"),
    ("L’été déjà à Noël, ça va être génial.", "mac-roman"),
    ("Съешь же ещё этих мягких французских булок", "koi8-r"),
    ("Съешь же ещё этих мягких французских булок", "iso-8859-5"),
    ("Съешь же ещё этих мягких французских булок", "cp866"),
    ("Το κείμενο αυτό είναι στα ελληνικά.", "cp1253"),
    ("השפה העברית היא שפה שמית", "cp1255"),
    ("오늘은 날씨가 좋습니다. 이것은 한국어 문장입니다.", "euc-kr"),
    ("今天我們來學習策略的是中國的歷史和文化，這是一個很好的題目。", "big5"),
    ("これは日本語の文章です。今日は天気がいい。", "euc-jp"),
]


@pytest.mark.parametrize(("text", "encoding"), IN_OTHER_ENCODINGS)
@pytest.mark.parametrize("form", ["{0}\n", "{0}\n" * 20, "def f(x):\n    return x + 1  # {0}\n", "x = 1  # {0}\n" * 30])
def test_text_of_other_encodings_is_never_other_letters(text: str, encoding: str, form: str) -> None:
    """Neither whole, nor as comments in code: it is U+FFFD, counted, or what it was, where that is declared."""
    whole = form.format(text)
    data = whole.encode(encoding)
    found = decode(data)
    assert found.encoding == "utf-8" and found.replaced > 0 and "\ufffd" in found.text
    assert decode(data, encoding) == Decoded(whole, codecs.lookup(encoding).name, 0)
    assert decode("\ufeffé".encode(), encoding) == Decoded("é", "utf-8", 0)  # a mark is surer


NAMES = {
    "cp1250": "Łukasz Żak;Petr Čech;Luka Modrić;Željko Šarić;Đorđe Petrović;Győr;Ştefan Ţiriac;Iaşi;Timişoara"
    ";Gdańsk;ščuka",
    "iso-8859-2": "Łukasz;Šimon;ľudia;święto;ąę",
    "cp1254": "Gökhan Şahin;İstanbul;Ağrı;Işık;Erdoğan;şehir;çalış;İzmir;ağaç;Müşteri",
    "cp1257": "Žemaitė;Jūrmala;Kęstutis;skaičius;Liepāja;šķirne;Mindaugas Piečaitis;įvestis",
    "mac-roman": "café;José;Müller;niño;Øyvind;“quote”;1990–2000;100°;corazón",
    "cp850": "café;Größe;São", "cp852": "Dvořák;Šimon", "cp1251": "да", "koi8-r": "да;Иван", "cp866": "да;Иван",
    "iso-8859-15": "5 €",
}  # fmt: skip
FORMS = ["{}", "# {}\nx = 1\n", "Copyright (c) 2010 by {} <a@b.org>\nAll rights reserved by the author of this file\n"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("encoding", "name"), [(key, name) for key, of in NAMES.items() for name in of.split(";")])
def test_one_name_of_another_encoding_is_never_other_letters(encoding: str, name: str, form: str) -> None:
    text = form.format(name)
    data = text.encode(encoding)
    found = decode(data)
    assert found.replaced > 0 and "\ufffd" in found.text
    assert hint(data, found) != "windows-1252"


WESTERN = (
    "José Müller;François Muñoz;São Paulo;Åsa Björk;Øyvind;Hélène;Zoë;naïve café;“quote” – don’t;1990–2000;© 2020, 100°"
    ";à la carte;déjà vu;El Niño;coração, irmã;poème;più;smörgås;ÉCOLE;où"
)


@pytest.mark.parametrize("name", WESTERN.split(";"))
def test_one_name_of_western_europe_is_read(name: str) -> None:
    text = FORMS[2].format(name)
    assert decode(text.encode("windows-1252")) == Decoded(text, "windows-1252", 0)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("これは日本語の文章です。", "iso2022_jp"), ("모든 인간은 태어날 때부터", "iso2022_kr"), ("这是我们的国家", "hz")],
)
def test_encodings_of_seven_bits_are_no_ascii(text: str, encoding: str) -> None:
    found = decode(f"Subject: {text}\r\nabc".encode(encoding))
    assert (found.text, found.replaced) == (f"Subject: {text}\nabc", 0)
    assert found.encoding.startswith(encoding)
    for plain in ("\x1b[31mred\x1b[0m", "a ~{ b }~ c", "x = {~{1}~}"):
        assert decode(plain.encode()) == Decoded(plain, "utf-8", 0)


@pytest.mark.parametrize("text", [*LATIN, "A…B", "5 °C, 3 µm, ±2", "El niño comió una piña, ¿verdad? Sí, señor."])
def test_comments_in_windows_1252(text: str) -> None:
    code = f"def f(x):\n    return x + 1  # {text}\n"
    assert decode(code.encode("windows-1252")) == Decoded(code, "windows-1252", 0)


@pytest.mark.parametrize(
    "cookie", ["# -*- coding: {} -*-", "#!/usr/bin/python\n# vim: set fileencoding={} :", "#coding={}"]
)
def test_source_code_says_its_encoding(cookie: str) -> None:
    code = cookie.format("cp1251") + "\nx = 1  # возвращает сумму\n"
    assert decode(code.encode("cp1251")) == Decoded(code, "cp1251", 0)
    for wrong in ("ascii", "nonsense", "utf-8", "base64"):
        assert decode(code.replace("cp1251", wrong).encode("cp1251")).encoding == "utf-8"
    late = "x = 1\n\n" + code
    assert decode(late.encode("cp1251")).replaced > 0


def test_cesu8_and_utf16_without_a_mark() -> None:
    text = "a note with emoji 😀 and more of it 🎉\n"
    halves = "".join(map(chr, struct.unpack(f"<{len(text.encode('utf-16-le')) // 2}H", text.encode("utf-16-le"))))
    assert decode(halves.encode("utf-8", "surrogatepass")) == Decoded(text, "cesu-8", 0)
    assert decode("half \ud83d only".encode("utf-8", "surrogatepass")).replaced > 0
    for encoding in ("utf-16-le", "utf-16-be"):
        plain = "plain ascii text in UTF-16, naïve\r\nand without a mark\r\n"
        assert decode(plain.encode(encoding)) == Decoded(plain.replace("\r\n", "\n"), encoding, 0)
        with pytest.raises(ValueError, match="binary"):
            decode(bytes(range(1, 30)).decode("latin-1").encode(encoding))


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


@pytest.mark.heavy
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
