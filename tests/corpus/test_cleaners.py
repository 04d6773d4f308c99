"""Rules that change text or judge it by language, address or word list: hand-written cases, and properties."""

from __future__ import annotations

import ast
import bz2
import gzip
import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.errors import InputError
from pipelines.specs import (
    BadWords,
    ChineseLines,
    ChineseQuality,
    ChineseRepetition,
    ConvertChinese,
    CorpusSpec,
    HalfWidth,
    Language,
    NormalizeWhitespace,
    Python,
    RemoveGutenbergBoilerplate,
    RemoveLicenseHeader,
    RemovePersonalData,
    RemoveWebBoilerplate,
    RepairUnicode,
    UrlBlockList,
)
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Rule, apply
from tests.conftest import ROOT, SHARED_DATA
from tests.corpus.rule import cleaned, run

ANY_TEXT = st.text(st.characters(), max_size=200)  # lone surrogates too


# --- characters and white space


@pytest.mark.parametrize(
    ("broken", "repaired"),
    [
        ("Donâ€™t panic", "Don’t panic"),
        ("cafÃ© au lait", "café au lait"),
        ("e\u0301tude", "étude"),
        ("a\x00b\x1fc\x7f", "abc"),
        ("\ufeffzero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
        ("tab\tand\r\nlines\f", "tab\tand\r\nlines\f"),
        ("“curled” ，全角。", "“curled” ，全角。"),
        ("می\u200cخواهم 👨\u200d👩\u200d👧", "می\u200cخواهم 👨\u200d👩\u200d👧"),
        ("x² ﬁ Ａ", "x² ﬁ Ａ"),
    ],
)
def test_characters_are_repaired_and_the_right_ones_stay(broken: str, repaired: str) -> None:
    assert cleaned(RepairUnicode(), broken) == repaired


def test_each_repair_can_be_switched() -> None:
    assert cleaned(RepairUnicode(mojibake=False), "Donâ€™t") == "Donâ€™t"
    assert cleaned(RepairUnicode(control_characters=False), "a\x00b\u200b") == "a\x00b\u200b"
    assert cleaned(RepairUnicode(normalization=""), "e\u0301") == "e\u0301"
    assert cleaned(RepairUnicode(normalization="NFKC"), "x² ﬁ Ａ") == "x2 fi A"
    assert cleaned(RepairUnicode(normalization="NFKC"), "3 × 10⁶, 10⁻³, 1ª") == "3 × 10^6, 10^−3, 1a"


def test_texts_of_lost_characters_are_rejected_above_the_limit() -> None:
    assert run(RepairUnicode(), "\ufffd" + "é" * 99)[1] == ""
    assert run(RepairUnicode(), "\ufffd" + "é" * 98)[1] == "replacement_characters"
    assert run(RepairUnicode(max_replacement_fraction=0.5), "\ud800\ud801ab") == ("\ufffd\ufffdab", "")


def test_white_space_gets_one_form_and_indentation_stays() -> None:
    text = "\r\n \u2028def f():\r\n\treturn\u00a01  \r\n\n\n\n\n    x  =  1\x85end\t\n\n"
    assert cleaned(NormalizeWhitespace(), text) == "def f():\n\treturn 1\n\n\n    x  =  1\nend"
    assert cleaned(NormalizeWhitespace(collapse_spaces=True), "  a  b\tc") == "  a b c"
    assert cleaned(NormalizeWhitespace(max_blank_lines=0), "a\n\nb") == "a\nb"
    assert cleaned(NormalizeWhitespace(max_blank_lines=1), "a\n\nb\n\n\nc") == "a\n\nb\n\nc"
    assert cleaned(NormalizeWhitespace(unicode_spaces=False), "a\u3000b") == "a\u3000b"


# --- boilerplate

BOOK = """The Project Gutenberg EBook of Alice

Title: Alice

*** START OF THIS PROJECT GUTENBERG EBOOK ALICE IN
WONDERLAND ***

Produced by Anonymous
Volunteers


CHAPTER I. She was *** tired.

THE END

End of the Project Gutenberg EBook of Alice

*** END OF THIS PROJECT GUTENBERG EBOOK ALICE ***
Section 1. General Terms of Use
"""


def test_a_book_is_cut_out_of_gutenbergs_notices() -> None:
    rule = RemoveGutenbergBoilerplate()
    assert cleaned(rule, BOOK) == "CHAPTER I. She was *** tired.\n\nTHE END"
    assert (
        cleaned(rule, "small print\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\nText") == "Text"
    )
    assert cleaned(rule, "A text about Project Gutenberg.\n") == "A text about Project Gutenberg.\n"


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the Gutenberg books of ../shared/data")
def test_all_editions_of_a_real_book_begin_and_end_alike() -> None:
    for path in sorted((SHARED_DATA / "redpajama_like/gutenberg").rglob("*.txt")):
        book = cleaned(RemoveGutenbergBoilerplate(), path.read_text(encoding="utf-8-sig", errors="replace"))
        assert "Gutenberg" not in book
        assert book.upper().startswith(("ALICE", "PRIDE AND PREJUDICE"))
        assert book.endswith(("THE END", "of uniting them."))


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("# Copyright 2020 X\n# Licensed under MIT.\n\nimport a\n", "import a\n"),
        ("#!/bin/sh\n# -*- coding: utf-8 -*-\n# (c) 2020 X\n\nls\n", "#!/bin/sh\n# -*- coding: utf-8 -*-\nls\n"),
        ("/*\n * Copyright X\n * All rights reserved.\n *\n * Sorts.\n */\nint a;\n", "/*\n * Sorts.\n */\nint a;\n"),
        ("/** SPDX-License-Identifier: MIT */\npackage a;", "package a;"),
        ("// Copyright X\n\n// Sorts.\nint a;", "// Sorts.\nint a;"),
        ("<!-- Copyright X -->\n<html>", "<html>"),
        ("-- Licensed under X\nSELECT 1", "SELECT 1"),
        ("<?php\n/* Copyright X */\necho 1;", "<?php\necho 1;"),
        ("# Sorts.\n#\n# Copyright X\n# All rights reserved.\nimport a", "# Sorts.\n#\nimport a"),
    ],
)
def test_licence_headers_go(source: str, left: str) -> None:
    assert cleaned(RemoveLicenseHeader(), source) == left


@pytest.mark.parametrize(
    "source",
    [
        "# Sorts lists.\nimport a\n",
        "import a\n# Copyright X\n",
        "#include <license.h>\nint a;\n",
        "/* Copyright X */ int a; /* b */\n",
        "x = '# Copyright'\n",
        "",
    ],
)
def test_other_comments_stay(source: str) -> None:
    assert cleaned(RemoveLicenseHeader(), source) == source


def test_web_furniture_goes_and_text_about_it_stays() -> None:
    page = "Skip to content\nBread is old.\nWe use cookies for your visit.\nRead more »\nShare on Facebook\n查看更多"
    assert cleaned(RemoveWebBoilerplate(), page) == "Bread is old."
    kept = "Read more books than you buy.\nAdvertisement is a trade.\n" + "The cookie policy " + "of the bakery " * 30
    assert cleaned(RemoveWebBoilerplate(), kept) == kept
    assert cleaned(RemoveWebBoilerplate(max_line_characters=1000), kept).count("\n") == 1


# --- language


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The quick brown fox jumps over the lazy dog and goes home to sleep.", "en"),
        ("Der schnelle braune Fuchs springt über den faulen Hund\nund geht nach Hause.", "de"),
        ("今天的天气很好，我们在公园里散步，\n然后一起回家吃饭。", "zh"),
        ("Le renard brun et rapide saute par-dessus le chien paresseux.", "fr"),
    ],
)
def test_languages_are_told_apart_and_written_down(text: str, code: str) -> None:
    document = Document("d", text)
    assert apply([Language(languages=(code,))], document)[1] == ""
    assert document.metadata["language"] == code
    assert 0.65 <= document.metadata["language_score"] <= 1
    assert run(Language(languages=("xx",)), text)[1] == f"language: {code}"


def test_a_low_score_rejects_and_only_the_beginning_counts() -> None:
    assert run(Language(), "def f(x): return x")[1].startswith("language_score: ")
    assert run(Language(min_score=0), "def f(x): return x")[1] == ""
    english, german = "This is certainly an English sentence. ", "Das ist ganz gewiss ein deutscher Satz. "
    assert run(Language(languages=("en",), max_characters=len(english)), english + german * 20)[1] == ""
    assert run(Language(languages=("en",)), english + german * 20)[1] == "language: de"


def test_an_empty_text_has_no_language() -> None:
    assert run(Language(languages=("en",), min_score=0), " \n\x00")[1] == "language: und"


# --- lists


def test_addresses_on_a_list_are_rejected_with_their_subdomains(tmp_path: Path) -> None:
    listed = tmp_path / "adult"
    listed.mkdir()
    (listed / "domains").write_text("# comment\nbad.example\nwww.Worse.example\n")
    (listed / "urls.gz").write_bytes(gzip.compress(b"fine.example/bad/page\n"))
    (listed / "expressions").write_text("fine.example\n")
    rule = UrlBlockList(path=str(listed))
    for url, reason in {
        "https://bad.example/x": "blocked_domain: bad.example",
        "http://user@a.b.BAD.example.:8080/?q": "blocked_domain: bad.example",
        "//worse.example": "blocked_domain: worse.example",
        "https://www.fine.example/bad/page/2?x=1": "blocked_url: fine.example/bad/page",
        "https://fine.example/bad": "",
        "https://fine.example/bad/pages": "",
        "https://notbad.example": "",
        "https://example": "",
        "http://[broken": "",
        "": "",
    }.items():
        assert run(rule, "text", url)[1] == reason, url


def test_words_of_an_address_reject_it() -> None:
    rule = UrlBlockList(words=("casino",), soft_words=("Hot", "girls", "live"), subwords=("free-bet",))
    for url, reason in {
        "https://casino.example": "url_word: casino",
        "https://x.example/CASINO-royale": "url_word: casino",
        "https://casinos.example": "",
        "https://x.example/hot": "",
        "https://x.example/hot/live": "url_soft_words: Hot live",
        "https://freebets.example": "url_subword: free-bet",
    }.items():
        assert run(rule, "text", url)[1] == reason, url


def test_documents_with_words_of_a_list_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "en"
    path.write_text("Damn\nbig fool\nc++\n脏话\nsm\n")
    rule = BadWords(path=str(path))
    for text, reason in {
        "Oh, DAMN!": "bad_words: damn",
        "damnation": "",
        "a BIG fool.": "bad_words: big fool",
        "a big foolish man": "",
        "I like C++, too": "bad_words: c++",
        "这是脏话吗": "bad_words: 脏话",
        "sm": "",
        "": "",
    }.items():
        assert run(rule, text)[1] == reason, text
    assert run(BadWords(path=str(path), allowed=()), "sm")[1] == "bad_words: sm"


def test_a_list_must_exist_and_have_the_demanded_content(tmp_path: Path) -> None:
    path = tmp_path / "words"
    with pytest.raises(InputError, match=r"bad_words: path: no file at .*words"):
        run(BadWords(path=str(path)), "text")
    path.write_bytes(b"damn\n")
    right = hashlib.sha256(b"damn\n").hexdigest()
    assert run(BadWords(path=str(path), sha256=right), "damn")[1] == "bad_words: damn"
    with pytest.raises(InputError, match=f"sha256: .*{right}"):
        run(BadWords(path=str(path), sha256="0" * 64), "damn")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"rule": "bad_words", "path": "x", "sha256": "not a digest"}, BadWords)
    (tmp_path / "lists").mkdir()
    for name in ("a", "b"):
        (tmp_path / "lists" / name).write_text("x")
    with pytest.raises(InputError, match="neither `domains` nor `urls`"):
        run(UrlBlockList(path=str(tmp_path / "lists")), "text", "https://a.example")
    (tmp_path / "cyrillic").write_bytes("плохо\nочень плохо и совсем нехорошо\n".encode("cp1251"))
    with pytest.raises(InputError, match=r"cyrillic: it is not UTF-8, and looks like windows-1251\. Save it as UTF-8"):
        run(BadWords(path=str(tmp_path / "cyrillic")), "text")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="binary: binary: NUL at byte 0"):
        run(BadWords(path=str(tmp_path / "binary")), "text")
    (tmp_path / "broken.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot decompress"):
        run(BadWords(path=str(tmp_path / "broken.gz")), "text")


@pytest.mark.parametrize("packed", [bytes, gzip.compress, zstandard.compress, bz2.compress])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_are_read_whatever_packs_and_encodes_them(
    tmp_path: Path, packed: Callable[[bytes], bytes], encoding: str
) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(packed("плохо\nübel\n".encode(encoding)))
    for text in ("это плохо", "das ist übel"):
        assert run(BadWords(path=str(path)), text)[1].startswith("bad_words")
    assert run(BadWords(path=str(path)), "это хорошо")[1] == ""


# --- the user's own


def test_a_function_of_the_users_judges_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules_of_test.py").write_text(
        "def no_poems(document, word='poem'):\n"
        "    document.text = document.text.upper()\n"
        "    return 'poem' if word.upper() in document.text else ''\n"
        "def wrong(document):\n"
        "    return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert run(Python(function="my_rules_of_test:no_poems"), "a poem") == ("A POEM", "poem")
    assert run(Python(function="my_rules_of_test:no_poems", options={"word": "ode"}), "a poem")[1] == ""
    with pytest.raises(InputError, match=r"my_rules_of_test:wrong returned None for d"):
        run(Python(function="my_rules_of_test:wrong"), "a")
    for name in ("my_rules_of_test:missing", "no_such_module_here:f", "my_rules_of_test", ":f", "a:"):
        with pytest.raises(InputError, match=r"cannot be imported|not of the form"):
            run(Python(function=name), "a")
    sys.modules.pop("my_rules_of_test")


# --- properties of all

CLEANERS: list[Rule] = [
    RepairUnicode(mojibake=False),
    RepairUnicode(mojibake=False, normalization="NFKC", max_replacement_fraction=1),
    NormalizeWhitespace(),
    NormalizeWhitespace(collapse_spaces=True, max_blank_lines=0),
    RemoveLicenseHeader(),
    RemoveWebBoilerplate(),
    RemovePersonalData(),
    HalfWidth(punctuation=True),
    ChineseLines(min_lines=0),
    ChineseLines(min_lines=0, cut_unfinished=True, min_han=2),
]
PIECE = (
    *("\n", "# Copyright X\n", "# Sorts.\n", "#\n", "/*", "*/", " * (c) 2020\n", "// x\n", "#!/bin/sh\n", "<!--"),
    *("-->", "a@b.com", "93.184.216.34", "555-867-5309", "汉字。", "漢，", "？", "Read more\n", "x", "\ufeff", "\t"),
)  # fmt: skip
PIECES = st.lists(st.sampled_from(PIECE), max_size=14).map("".join)


@settings(max_examples=150)
@given(text=ANY_TEXT | PIECES)
def test_cleaners_settle_after_one_run(text: str) -> None:
    for rule in CLEANERS:
        once = run(rule, text)[0]
        assert run(rule, once)[0] == once, rule


@settings(max_examples=150)
@given(text=ANY_TEXT | PIECES)
def test_no_text_makes_a_rule_fail(text: str) -> None:
    for rule in (
        *CLEANERS,
        RepairUnicode(),
        RemoveGutenbergBoilerplate(),
        Language(),
        ConvertChinese(),
        ConvertChinese(config="s2twp"),
        ChineseQuality(min_characters=0),
        ChineseRepetition(),
        UrlBlockList(subwords=("x",)),
    ):
        assert isinstance(run(rule, text, url=text)[1], str)


@pytest.mark.parametrize("name", ["web", "papers", "code", "chinese"])
def test_presets_are_valid_and_their_commented_lines_too(name: str) -> None:
    text = (ROOT / "pipelines/presets" / f"{name}.yaml").read_text()
    spec = msgspec.convert(yaml.safe_load(text)["corpus"], CorpusSpec)
    assert spec.near_duplicates == "drop"
    commented = [yaml.safe_load(line.split("#", 1)[1]) for line in text.splitlines() if "# " in line and "- {" in line]
    assert commented
    for (entry,) in commented:
        field = "rules" if "rule" in entry else "sources"
        msgspec.convert({field: [entry]}, CorpusSpec)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the code of ../shared/data")
def test_without_its_licence_header_real_code_parses_to_the_same_tree() -> None:
    changed = 0
    with gzip.open(SHARED_DATA / "code/local_python/file-000000000000.json.gz", "rt") as lines:
        for line in itertools.islice(lines, 0, 900, 9):
            source = json.loads(line)["content"]
            text = cleaned(RemoveLicenseHeader(), source)
            if text != source:
                changed += 1
                assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(source))
    assert changed > 10
