"""Web archives and Wikipedia dumps: every record is a document or set aside with a reason."""

from __future__ import annotations

import bz2
import gzip
from collections import Counter
from pathlib import Path

import pytest

from cluster.specs.sources import Source, WarcSource, WikipediaSource
from pipelines.corpus.documents import Broken, Document
from pipelines.corpus.readers import UNREADABLE, list_files, read
from tests.conftest import SHARED_DATA

DATA = SHARED_DATA / "redpajama_like"
PARAGRAPH = "The library opens at nine in the morning, and on Sundays it stays closed for the whole of the day. " * 5


def found(source: Source) -> tuple[list[Document], list[Broken]]:
    """Everything that a source holds. What ends a file early is the last of the broken."""
    documents: list[Document] = []
    broken: list[Broken] = []
    for file in list_files(source):
        try:
            for item in read(source, file):
                documents.append(item) if isinstance(item, Document) else broken.append(item)
        except UNREADABLE as error:
            broken.append(Broken(file.name, "", f"unreadable: {error}"))
    assert len({item.id for item in documents}) == len(documents)
    return documents, broken


def reasons(broken: list[Broken]) -> Counter[str]:
    return Counter(item.reason.partition(":")[0] for item in broken)


def needs(path: Path) -> str:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return str(path)


# -- web archives ------------------------------------------------------------------------------------------------


def record(kind: str, body: bytes, number: int, url: str = "https://example.org/") -> bytes:
    content = "application/http; msgtype=response" if kind == "response" else "text/plain"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:0000-{number}>\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Date: 2026-01-0{number}T00:00:00Z\r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def page(text: str, status: str = "200 OK", kind: str = "text/html; charset=utf-8", charset: str = "utf-8") -> bytes:
    html = (
        f"<html lang='en'><head><title>Hours</title></head><body><nav><a href='/'>Home</a></nav>"
        f"<article><h1>Opening hours</h1><p>{text}</p></article></body></html>"
    )
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + html.encode(charset)


def archive(folder: Path, *records: bytes) -> Path:
    """As crawlers write it: a gzip member a record."""
    path = folder / "crawl.warc.gz"
    path.write_bytes(b"".join(map(gzip.compress, records)))
    return path


def test_pages_and_what_is_none(tmp_path: Path) -> None:
    archive(
        tmp_path,
        record("warcinfo", b"software: test\r\n", 1),
        record("request", b"GET / HTTP/1.1\r\n\r\n", 2),
        record("response", page(PARAGRAPH), 3),
        record("response", page("gone", status="404 Not Found"), 4),
        record("response", page("%PDF", kind="application/pdf"), 5),
        record("response", page(f"Café. {PARAGRAPH}", kind="text/html; charset=latin-1", charset="latin-1"), 6),
    )
    documents, broken = found(WarcSource(path=str(tmp_path)))
    assert [document.id for document in documents] == ["crawl.warc.gz#0000-3", "crawl.warc.gz#0000-6"]
    first, latin = documents
    assert "opens at nine" in first.text
    assert "Home" not in first.text
    assert (first.url, first.metadata["title"], first.metadata["language"]) == ("https://example.org/", "Hours", "en")
    assert "Café" in latin.text
    assert sorted(item.reason for item in broken) == ["http_status: 404", "not_html: application/pdf"]
    assert not any(item.is_damage for item in broken)
    everything, _ = found(WarcSource(path=str(tmp_path), main_content=False))
    assert "Home" in everything[0].text


def test_texts_of_wet(tmp_path: Path) -> None:
    path = archive(tmp_path, record("conversion", PARAGRAPH.encode(), 1))
    path.rename(tmp_path / "crawl.warc.wet.gz")
    (document,), broken = found(WarcSource(path=str(tmp_path)))
    assert document.text.strip() == PARAGRAPH.strip()
    assert not broken


def test_an_archive_that_breaks_off(tmp_path: Path) -> None:
    whole = record("response", page(PARAGRAPH), 1)
    path = archive(tmp_path, whole, whole.replace(b"0000-1", b"0000-2"))
    path.write_bytes(path.read_bytes()[:-40])
    documents, broken = found(WarcSource(path=str(tmp_path)))
    assert [document.id for document in documents] == ["crawl.warc.gz#0000-1"]
    assert broken
    assert all(item.is_damage for item in broken)


def test_published_archives() -> None:
    documents, broken = found(WarcSource(path=needs(DATA / "dolma" / "tests" / "data" / "warc")))
    assert len(documents) == 37  # the pages among the 82 records
    assert reasons(broken) == {"not_html": 4}  # robots.txt and the like
    assert all(document.text.strip() and document.url.startswith("http") for document in documents)
    documents, broken = found(WarcSource(path=needs(DATA / "commoncrawl-whirlwind"), suffixes=(".warc", ".wet")))
    assert len(documents) == 4  # one page, as WARC and as WET, plain and compressed
    assert len({document.text for document in documents}) == 2
    assert not broken


# -- Wikipedia ---------------------------------------------------------------------------------------------------

SITE = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="en"><siteinfo>
<base>https://en.wikipedia.org/wiki/Main_Page</base><namespaces><namespace key="0" /><namespace key="6">File</namespace>
<namespace key="14">Category</namespace></namespaces></siteinfo>"""
ARTICLE = """'''Anna''' was a [[painter|painter of portraits]] from [[Oslo]].&lt;ref&gt;A book.&lt;/ref&gt; {{Infobox
| name = Anna {{nested|x}} }} She wrote &amp;mdash; and [https://example.org sang].

== Life ==
* born in 1900
* died in 1980
[[File:Anna.jpg|thumb|A picture]]
The area is &lt;math&gt;x^2&lt;/math&gt;.

[[Category:Painters]]"""


def wiki_page(number: int, title: str, text: str, namespace: int = 0, redirect: str = "") -> str:
    to = f'<redirect title="{redirect}" />' if redirect else ""
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>{number}</id>{to}<revision><id>{number}00</id>"
        f"<timestamp>2026-01-01T00:00:00Z</timestamp><text xml:space='preserve'>{text}</text></revision></page>\n"
    )


def dump(folder: Path, *pages: str) -> Path:
    path = folder / "wiki.xml.bz2"
    path.write_bytes(bz2.compress((SITE + "".join(pages) + "</mediawiki>").encode()))
    return path


def test_an_article_without_markup(tmp_path: Path) -> None:
    dump(
        tmp_path,
        wiki_page(1, "Anna of Oslo", ARTICLE),
        wiki_page(2, "Anne", "#REDIRECT [[Anna of Oslo]]", redirect="Anna of Oslo"),
        wiki_page(3, "Talk:Anna", "I think so.", namespace=1),
    )
    (document,), broken = found(WikipediaSource(path=str(tmp_path)))
    assert document.text.startswith("Anna was a painter of portraits from Oslo.")
    for words in ("Life", "born in 1900", "x^2", "and sang"):
        assert words in document.text
    for markup in ("'''", "[[", "{{", "==", "<", "Infobox", "A book", "A picture", "Painters", "&mdash;"):
        assert markup not in document.text, markup
    assert document.id == "wiki.xml.bz2#1"
    assert (document.url, document.license) == ("https://en.wikipedia.org/wiki/Anna_of_Oslo", "CC-BY-SA-4.0")
    assert document.metadata["title"] == "Anna of Oslo"
    assert sorted(item.reason for item in broken) == ["namespace: 1", "redirect: Anna of Oslo"]
    assert not any(item.is_damage for item in broken)


def test_a_dump_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "wiki.xml"
    path.write_text(SITE + wiki_page(1, "One", PARAGRAPH) + wiki_page(2, "Two", PARAGRAPH)[:200])
    (document,), broken = found(WikipediaSource(path=str(tmp_path)))
    assert document.metadata["title"] == "One"
    assert len(broken) == 1
    assert broken[0].is_damage


def test_published_dumps() -> None:
    documents, broken = found(WikipediaSource(path=needs(DATA / "wikidump")))
    by_file = Counter(item.id.partition("#")[0] for item in (*documents, *broken))
    english = next(name for name in by_file if name.startswith("enwiki-latest"))
    assert by_file[english] == 206
    assert sum(item.id.startswith(english) and item.reason.startswith("redirect") for item in broken) == 100
    assert reasons(broken).keys() <= {"redirect", "namespace", "no_text"}
    assert any("а" in document.text for document in documents if document.id.startswith("bgwiki"))
    assert not [document.id for document in documents if "[[" in document.text]
