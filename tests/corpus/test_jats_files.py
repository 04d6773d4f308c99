"""Files of articles: those that are broken, lie or are hostile, bulk files, packages and plain texts."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest

from pipelines.specs import JatsSource
from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.jats import xml as jats_xml
from tests.corpus.test_jats import DTD, article, blocks, broken, found, only


@pytest.fixture
def xml(tmp_path: Path) -> Path:
    return tmp_path / "a.xml"


# Robustness.


def test_named_entities_without_a_dtd(xml: Path) -> None:
    body = "<p>5&nbsp;&micro;m &lt; &alpha; &amp; &Gcy; &nosuch; <![CDATA[&nbsp;<b>]]></p>"
    document = only(xml, DTD + article(body))
    assert document.text.endswith("5\u00a0µm < α & Г &nosuch; &nbsp;<b>")
    assert document.metadata["unknown_entities"] == ["nosuch"]


def test_entities_of_the_file_itself_where_they_are_plain_text(xml: Path) -> None:
    declared = '<!DOCTYPE article [<!ENTITY co "A &#38; B"><!ENTITY x SYSTEM "file:///etc/passwd">]>'
    document = only(xml, declared + article("<p>&co; &x;</p>"))
    assert document.text.endswith("A & B &x;")


def test_a_billion_laughs_blow_nothing_up(xml: Path) -> None:
    lols = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    document = only(xml, f'<!DOCTYPE lolz [<!ENTITY l0 "lol">{lols}]>' + article("<p>&l9; &l0;</p>"))
    assert document.text.endswith("&l9; lol")
    assert document.metadata["unknown_entities"] == ["l9"]


def test_hostile_prologs_take_no_time(xml: Path) -> None:
    started = time.perf_counter()
    found(xml, "<!-- a -->" * 5000 + "<" * 40_000 + "<![CDATA[" * 5000)
    found(xml, "<" + "a" * 60_000 + article("<p>" + "<![CDATA[" * 5000 + "</p>"))
    assert time.perf_counter() - started < 5


def test_deep_nesting_is_broken_and_no_crash(xml: Path) -> None:
    lists = "<list><list-item><p>x" * 80 + "</p></list-item></list>" * 80
    sections = "<sec><p>x</p>" * 300 + "</sec>" * 300
    for body in (lists, sections):
        for record in found(xml, article(body)):
            assert isinstance(record, Document) or record.reason.startswith("malformed")
    assert broken(xml, article(sections)).reason.startswith("malformed")


def test_junk_before_the_article_is_skipped_and_noted(xml: Path) -> None:
    document = only(xml, "\ufeff<?xml version='1.0'?>\n  HTTP/1.1 200 OK\n" + DTD + article())
    assert document.text == "A title\n\nBody."
    assert document.metadata["skipped"].startswith("line 2, column 3: HTTP/1.1 200 OK")


def test_empty_files_and_files_without_an_article(xml: Path) -> None:
    assert broken(xml, "") == Broken("a.xml", "", "empty")
    assert broken(xml, " \n ").reason == "empty"
    record = broken(xml, '<?xml version="1.0"?>\n<book><p>x</p>&</book>')
    assert record.reason.startswith("no_article") and record.position == "line 2, column 15"
    assert broken(xml, "<book/>").reason.startswith("no_article")


def test_truncated_and_malformed_articles_say_where(xml: Path) -> None:
    whole = DTD + article("\n<p>one</p>\n<p>two</p>")
    record = broken(xml, whole[: whole.index("two")])
    assert record.reason.startswith("truncated: ") and record.position.startswith("line 6, column ")
    record = broken(xml, whole.replace("<p>two</p>", "<p>two</q>"))
    assert record.reason == "malformed: Opening and ending tag mismatch: p line 6 and q"
    assert record.position == "line 6, column 11"
    record = broken(xml, whole.replace("two", "R&D"))
    assert record.reason.startswith("malformed: ") and record.position.startswith("line 6, column ")


def test_position_on_the_line_where_the_article_begins(xml: Path) -> None:
    record = broken(xml, "<!-- x --> <article ><p></q></article>")
    assert record.position == "line 1, column 29"


def test_article_without_text(xml: Path) -> None:
    assert broken(xml, "<article><front/></article>").reason.startswith("no_text")


@pytest.mark.parametrize(
    "encoding", ["iso-8859-1", "windows-1252", "utf-16", "utf-16-le", "utf-8-sig", "gb18030", "utf-32"]
)
def test_encodings(xml: Path, encoding: str) -> None:
    declared = encoding if encoding not in ("utf-8-sig", "utf-16-le") else encoding[:-3].rstrip("-")
    data = (f'<?xml version="1.0" encoding="{declared}"?>\n' + DTD + article("<p>Médéa à côté</p>")).encode(encoding)
    assert only(xml, data).text.endswith("Médéa à côté")


def test_wrong_and_unknown_encodings(xml: Path) -> None:
    text = '<?xml version="1.0" encoding="{}"?>\n' + article("\n<p>é</p>")
    record = broken(xml, text.format("ascii").encode())
    assert "ascii" in record.reason and record.position == "line 5, column 4"
    assert "klingon" in broken(xml, text.format("klingon")).reason


@pytest.mark.parametrize(
    ("declared", "encoding", "noted"),
    [
        ('<?xml version="1.0" encoding="UTF-8"?>', "windows-1252", "windows-1252"),
        ("", "windows-1252", "windows-1252"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>', "windows-1252", None),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>', "utf-8", None),
        ('<?xml version="1.0" encoding="windows-1252"?>', "utf-8", None),
    ],
)
def test_a_file_that_lies_about_its_encoding_is_read_as_a_plain_text(
    xml: Path, declared: str, encoding: str, noted: str | None
) -> None:
    document = only(xml, (declared + article("<p>Müller ’quoted’ a “word” – naïve</p>")).encode(encoding))
    assert document.text.endswith("\n\nMüller ’quoted’ a “word” – naïve")
    assert document.metadata.get("encoding") == noted


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [
        ("gb2312", "gb18030", "朱镕基和喆"),
        ("GBK", "gb18030", "\u3400和\U00020000"),
        ("shift_jis", "cp932", "①と髙島"),
        ("euc-kr", "cp949", "똠방각하"),
        ("gb2312", "utf-8", "这是中文的文章"),
        ("shift_jis", "utf-8", "これは日本語の文章です"),
    ],
)
def test_a_declared_set_is_taken_for_the_larger_one_that_is_meant(
    xml: Path, declared: str, encoding: str, text: str
) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>'
    assert only(xml, (head + article(f"<p>{text}</p>")).encode(encoding)).text.endswith(f"\n\n{text}")


def test_what_cannot_be_decoded_is_counted(xml: Path) -> None:
    data = article("<p>Médéa à côté cut</p>").encode().replace(b"cut", b"\xc3 c\xff")
    document = only(xml, data)
    assert document.text.endswith("Médéa à côté \ufffd c\ufffd")
    assert document.metadata["replacement_characters"] == 2
    chinese = only(
        xml, b'<?xml version="1.0" encoding="utf-8"?>' + article("<p>我们的学生在中国</p>").encode("gb18030")
    )
    assert chinese.text.endswith("我们的学生在中国") and chinese.metadata["encoding"] == "gb18030"


def test_undeclared_prefixes_of_jats_are_known(xml: Path) -> None:
    text = article('<p><ext-link xlink:href="u">L</ext-link></p>').replace("xmlns:xlink=", "x=")
    assert only(xml, text).text.endswith("L")


def test_default_and_prefixed_namespaces(xml: Path) -> None:
    assert only(xml, article().replace("<article ", '<article xmlns="https://jats.nlm.nih.gov/ns/" ', 1)).text
    prefixed = '<j:article xmlns:j="u:x"><j:body><j:p>P.</j:p></j:body></j:article>'
    assert only(xml, prefixed).text == "P."


# Files of several articles.


def test_many_articles_in_one_root_each_for_itself(xml: Path) -> None:
    first, second, third = (article(f"<p>Number {i}.</p>") for i in (1, 2, 3))
    cut = second[: second.index("Number")]
    data = '<?xml version="1.0"?>\n<articles xmlns:q="u:q">\n' + first + "\n" + cut + "\n" + third + "\n</articles>\n"
    one, two, three = found(xml, data)
    assert isinstance(one, Document) and one.id == "a.xml#1" and one.text.endswith("Number 1.")
    assert isinstance(two, Broken) and two.id == "a.xml#2" and two.reason.startswith("truncated")
    assert two.position == "line 9, column 1"
    assert isinstance(three, Document) and three.id == "a.xml#3" and three.text.endswith("Number 3.")


def test_files_joined_one_behind_the_other(xml: Path) -> None:
    one, two, end = found(xml, DTD + article() + "\n" + DTD + article() + "\nrubbish")
    assert (one.id, two.id) == ("a.xml", "a.xml#2")
    assert isinstance(end, Broken) and end.id == "a.xml#end" and "rubbish" in end.reason
    assert end.position.startswith("line ")


@pytest.mark.parametrize("chunk_bytes", [1, 7, 300])
def test_articles_are_found_wherever_chunks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    data = "<articles>" + " \n".join(article(f"<p>Number {i} é.</p>") for i in range(4)) + "</articles>"
    whole = [(d.id, getattr(d, "text", "")) for d in found(tmp_path / "a.xml", data)]
    monkeypatch.setattr(jats_xml, "CHUNK_BYTES", chunk_bytes)
    assert [(d.id, getattr(d, "text", "")) for d in found(tmp_path / "a.xml", data)] == whole
    assert len(whole) == 4


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("a <!-- <article> and </article> --> b", "a b"),
        ("a <![CDATA[<article> and </article>]]> b", "a <article> and </article> b"),
        ("a <?note </article> <article> ?> b", "a b"),
        ("a <![CDATA[<!-- ]]>b<!-- <![CDATA[ -->", "a <!-- b"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 64, 1 << 20])
def test_tags_in_comments_and_marked_sections_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, markup: str, text: str
) -> None:
    monkeypatch.setattr(jats_xml, "CHUNK_BYTES", chunk_bytes)
    data = f"<!-- <article> --><articles>{article(f'<p>{markup}</p>')}<!-- </article> -->{article()}</articles>"
    one, two = found(tmp_path / "a.xml", data)
    assert isinstance(one, Document) and one.text == f"A title\n\n{text}"
    assert isinstance(two, Document) and two.text == "A title\n\nBody."


@pytest.mark.parametrize("chunk_bytes", [1, 64, 1 << 20])
def test_an_article_element_within_an_article_is_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(jats_xml, "CHUNK_BYTES", chunk_bytes)
    inner = (
        '<article xmlns="http://www.w3.org/1999/xhtml"><p>In.</p><article class="x"><p>Deep.</p></article></article>'
    )
    rest = "<sub-article><body><article><p>Part.</p></article></body></sub-article>"
    data = (
        f"<articles>{article(f'<p>A.</p>{inner}<p>B.</p>', rest=rest)}<article><front/><body><p>C.</p></body></article>"
    )
    one, part, two = found(tmp_path / "a.xml", data + "</articles>")
    assert [record.text for record in (one, part, two) if isinstance(record, Document)] == [
        "A title\n\nA.\n\nIn.\n\nDeep.\n\nB.", "Part.", "C.",
    ]  # fmt: skip


@pytest.mark.parametrize("opener", ["<!-- ", "<![CDATA[", "<?pi ", "<article><p>"])
def test_what_is_not_closed_costs_its_article_alone(tmp_path: Path, opener: str) -> None:
    last = article("<p>C <!-- c --><![CDATA[d]]><?pi e?></p>")
    one, two, three = found(tmp_path / "a.xml", f"{article(f'<p>A {opener}</p>')}\n{article()}\n{last}")
    assert isinstance(one, Broken) and one.position.startswith("line ")
    assert isinstance(two, Document) and two.text == "A title\n\nBody."
    assert isinstance(three, Document) and three.text == "A title\n\nC d"


def test_openers_without_number_take_no_time(xml: Path) -> None:
    started = time.perf_counter()
    for opener in ("<!--", "<![CDATA[", "<?", "<article ", "<article><!---->", "<!--<![CDATA[<?"):
        found(xml, article("<p>" + opener * 40_000 + "</p>"))
        found(xml, opener * 40_000 + article())
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize(
    "markup",
    ["<sec><title>Funding</title><p>x</p></sec>", "<p>10<sup>1</sup></p>", '<p><xref rid="F"/></p>', '<xref rid="F"/>'],
)
def test_the_same_again_and_again_takes_time_by_its_number(xml: Path, markup: str) -> None:
    started = time.perf_counter()
    found(xml, article(markup * 5000 + '<fig id="F"><label>Figure 1</label></fig>'))
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize(
    "markup",
    [
        '<graphic xlink:href="data:{}"/>',
        "<!--{}-->",
        "<?pi {}?>",
        "<alt-text>{}</alt-text>",
        "<alt-text><![CDATA[{}]]></alt-text>",
    ],
)
def test_a_picture_or_a_text_of_more_than_ten_megabytes(xml: Path, markup: str) -> None:
    body = f"<p>before {markup.format('A' * 11_000_000)} after</p>"
    assert blocks(xml, body) == ["before after"]


def test_depth_has_a_limit_that_is_named_in_our_words(xml: Path) -> None:
    record = broken(xml, article("<sec>" * 300 + "</sec>" * 300))
    assert record.reason == "malformed: elements are nested more than 256 deep"
    padding = f"<!--{'A' * 11_000_000}-->"
    record = broken(xml, article(padding + "<sec>" * 3000 + "x" + "</sec>" * 3000))
    assert record.reason == "malformed: elements are nested more than 2048 deep"
    record = broken(xml, article(padding + "<sec>" * 2000 + "x" + "</sec>" * 2000))
    assert record.reason == "malformed: elements are nested too deeply"


def test_memory_is_one_articles(tmp_path: Path) -> None:
    path = tmp_path / "many.xml"
    with open(path, "w") as file:
        file.write("<articles>")
        for i in range(300):
            file.write(article(f"<p>{i} {'word ' * 10_000}</p>"))
        file.write("</articles>")
    tracemalloc.start()
    count = sum(1 for _ in JatsSource(path=str(path)).read(SourceFile(path.name, str(path), 0, "")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 300
    assert peak < 6 << 20  # the file holds 15 MB


def test_an_article_too_large_is_left_out_and_the_next_is_read(xml: Path) -> None:
    large = article("<p>" + "x y " * (17 << 20) + "</p>")
    record, small = found(xml, "<articles>" + large + article("<p>Small.</p>") + "</articles>")
    assert (
        isinstance(record, Broken) and record.reason.startswith("too_large") and record.position.startswith("line 1,")
    )
    assert isinstance(small, Document) and small.text.endswith("Small.")


# Packages and plain texts.


def package(members: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz"])
def test_packages(tmp_path: Path, ending: str) -> None:
    members: dict[str, str | bytes] = {
        "PMC1/one.nxml": article("<p>One.</p>"),
        "PMC1/fig.jpg": b"\xff\xd8",
        "PMC1/data.txt": "an author's supplement",
        "PMC2/PMC2.xml": article("<p>Two.</p>"),
        "PMC3/bad.nxml": "<article>\n<p></article>",
        "PMC4.txt": "==== Front\nJ Test 1234 Title Names\n==== Body\nText of it.\n\nMore.\n==== Refs\n1. Doe\n",
    }
    one, two, bad, text = found(tmp_path / f"p{ending}", package(members))
    assert isinstance(one, Document) and one.id == f"p{ending}#PMC1/one.nxml" and one.text.endswith("One.")
    assert isinstance(two, Document) and two.metadata["pmcid"] == "PMC2"
    assert isinstance(bad, Broken) and bad.position.startswith("member PMC3/bad.nxml, line 2, column ")
    assert isinstance(text, Document) and text.text == "Text of it.\n\nMore." and text.metadata == {"pmcid": "PMC4"}


def test_a_package_cut_off_says_after_which_member(tmp_path: Path) -> None:
    tar = gzip.decompress(package({"a.xml": article("<p>A.</p>"), "b.xml": article("<p>" + "B" * 9000 + "</p>")}))
    first, last = found(tmp_path / "p.tar", tar[:5000])
    assert isinstance(first, Document) and first.text.endswith("A.")
    assert isinstance(last, Broken) and last.position == "after member b.xml" and last.reason.startswith("truncated")
    assert broken(tmp_path / "p.tar", b"").reason.startswith("truncated")


def test_plain_texts_alone(tmp_path: Path) -> None:
    path = tmp_path / "PMC7.txt"
    document = only(path, "\ufeffTitle\r\n\r\nText.\r\n")
    assert (document.text, document.url) == ("Title\n\nText.", "https://pmc.ncbi.nlm.nih.gov/articles/PMC7/")
    marked = "==== Front\nx\n==== Body\nB\n==== Refs\nR\n"
    assert only(path, marked, references=True).text == "B\n\nR"
    document = only(path, b"one\n tw\xf6")
    assert document.text == "one\n twö" and document.metadata["encoding"] == "windows-1252"
    assert broken(path, b"one\n tw\0").reason.startswith("malformed: binary")
    assert broken(path, "").reason == "empty"
    assert broken(path, "==== Front\nx\n").reason.startswith("no_text")
