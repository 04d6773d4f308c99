"""Web archives: every record is a page, or says why not, or describes another; damage costs only what it hits."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.specs import WarcSource
from pipelines.stages.corpus.documents import Broken, Document
from pipelines.stages.corpus.readers.html_pages import MAX_DEPTH, decode_page, extract
from pipelines.stages.corpus.readers.warc import reader as warc
from tests.conftest import SHARED_DATA
from tests.corpus.files import read_file

RUSSIAN = "<p>Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. " * 3
HTML = "<html lang='de'><head><title>Ein\n Titel</title></head><body><p>Grüße aus Köln</p></body></html>"


def record(block: bytes, kind: str = "response", number: int = 1, **headers: str) -> bytes:
    """A record as ISO 28500 has it; an empty header is left out."""
    fields = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:0000-{number}>",
        "WARC-Date": "2024-05-01T00:00:00Z",
        "WARC-Target-URI": f"https://example.org/{number}",
        "Content-Type": "application/http; msgtype=response",
        "Content-Length": str(len(block)),
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"WARC/1.1\r\n{head}\r\n".encode() + block + b"\r\n\r\n"


def http(body: bytes, *headers: str, status: str = "HTTP/1.1 200 OK", kind: str = "text/html; charset=utf-8") -> bytes:
    lines = [status, *([f"Content-Type: {kind}"] if kind else []), *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def read(path: Path, data: bytes, name: str = "a.warc", **fields: bool) -> tuple[list[Document | Broken], str]:
    """What an archive of these bytes holds, and what ended it early."""
    (path / name).write_bytes(data)
    source = WarcSource(path=str(path / name), **fields)  # type: ignore[arg-type]
    return read_file(source)


def outcomes(found: list[Document | Broken]) -> list[str]:
    return [record.text if isinstance(record, Document) else record.reason for record in found]


def test_a_document_knows_its_page(tmp_path: Path) -> None:
    data = record(http(HTML.encode(), "Content-Language: en"), WARC_Target_URI="<https://example.org/x>")
    (found,), error = read(tmp_path, data)
    assert not error
    assert isinstance(found, Document)
    assert (found.id, found.url, found.text) == ("a.warc#0000-1", "https://example.org/x", "Grüße aus Köln")
    assert found.metadata == {"date": "2024-05-01T00:00:00Z", "title": "Ein Titel", "language": "de"}
    plain = HTML.replace(" lang='de'", "").encode("latin-1")
    cut = record(http(plain, "Content-Language: en", kind="text/html; charset=ISO-8859-1"), WARC_Truncated="length")
    (found,), _ = read(tmp_path, cut)
    assert isinstance(found, Document)
    assert found.text == "Grüße aus Köln"
    assert {name: found.metadata[name] for name in ("language", "encoding", "truncated")} == {
        "language": "en",
        "encoding": "windows-1252",
        "truncated": "length",
    }


def test_every_record_is_a_page_or_says_why_not(tmp_path: Path) -> None:
    page = http(HTML.encode())
    text = "Grüße aus Köln"
    cases = [
        (record(b"software: x", "warcinfo"), None),
        (record(b"GET / HTTP/1.1\r\n\r\n", "request"), None),
        (record(b"{}", "metadata"), None),
        (record(page), text),
        (record(http(HTML.encode(), kind="application/xhtml+xml")), text),
        (record(http(HTML.encode(), kind="")), text),  # known by its beginning
        (record(page.replace(b"\r\n", b"\n")), text),
        (record(http(HTML.encode(), kind="text/plain"), WARC_Identified_Payload_Type="text/html"), text),
        (record(HTML.encode(), "resource", Content_Type="text/html"), text),
        (record(text.encode(), "conversion", Content_Type="text/plain"), text),
        (record(http(b"%PDF", kind="application/pdf")), "not_html: application/pdf"),
        (record(page, WARC_Identified_Payload_Type="image/png"), "not_html: image/png"),
        (record(http(b"abc", kind="")), "not_html: no content type"),
        (record(b"a", "resource", Content_Type="text/css"), "not_html: text/css"),
        (record(b"example.org. IN A 1.2.3.4", Content_Type="text/dns"), "not_html: text/dns"),
        (record(b"a", "conversion", Content_Type="image/png"), "not_text: image/png"),
        (record(http(HTML.encode(), status="HTTP/1.1 404 Not Found")), "http_status: 404"),
        (record(http(HTML.encode(), status="HTTP/2 301")), "http_status: 301"),
        (record(HTML.encode()), "http: no status line"),
        (record(b""), "http: no status line"),
        (record(http(b""), "revisit"), "revisit"),
        (record(b"a", "continuation"), "continuation"),
        (record(b"a", "novelty"), "record_type: novelty"),
        (record(http(b"<html><script>x</script></html>")), "no_text"),
        (record(http(b"<p>\0\xff\xfe</p>")), "binary: NUL at byte 3"),
    ]
    found, error = read(tmp_path, b"".join(data for data, _ in cases))
    assert not error
    assert outcomes(found) == [outcome for _, outcome in cases if outcome is not None]


def test_broken_records_say_at_which_byte(tmp_path: Path) -> None:
    first = record(http(HTML.encode()))
    found, _ = read(tmp_path, first + record(http(b"", status="HTTP/1.1 500 Oh")))
    assert isinstance(found[1], Broken)
    assert (found[1].id, found[1].position) == ("a.warc#0000-1", f"byte {len(first)}")
    (nameless,), _ = read(tmp_path, record(http(HTML.encode()), WARC_Record_ID=""))
    assert nameless.id == "a.warc#byte-0"


def chunked(body: bytes) -> bytes:
    half = len(body) // 2
    return b"%x;a=b\r\n%s\r\n%X\r\n%s\r\n0\r\n\r\n" % (half, body[:half], len(body) - half, body[half:])


def test_bodies_come_out_of_their_encodings(tmp_path: Path) -> None:
    body = HTML.encode()
    raw_deflate = zlib.compressobj(wbits=-15)
    is_gzip, is_chunked = "Content-Encoding: gzip", "Transfer-Encoding: chunked"
    bodies = [
        http(gzip.compress(body), is_gzip),
        http(zlib.compress(body), "Content-Encoding: deflate"),
        http(raw_deflate.compress(body) + raw_deflate.flush(), "Content-Encoding: deflate"),
        http(zstandard.compress(body), "Content-Encoding: zstd"),
        http(chunked(gzip.compress(body)), is_gzip, is_chunked),
        http(body, is_gzip, is_chunked),  # undone by the crawler, which left the headers
        http(body, "Content-Encoding: UTF-8"),
    ]
    found, _ = read(tmp_path, b"".join(map(record, bodies)))
    assert outcomes(found) == ["Grüße aus Köln"] * len(bodies)


def test_a_damaged_body_costs_one_page(tmp_path: Path) -> None:
    damaged = [
        http(b"\x1f\x8bdamaged, surely", "Content-Encoding: gzip"),
        http(b"no brotli", "Content-Encoding: br"),
        http(b"3\r\nabc\r\nzzz\r\n", "Transfer-Encoding: chunked"),
        http(("<div>" * 3 * MAX_DEPTH + "x").encode()),
        http(HTML.encode()),
    ]
    found, error = read(tmp_path, b"".join(map(record, damaged)))
    assert not error
    reasons = [
        "content_encoding: gzip: ",
        "content_encoding: br: ",
        "transfer_encoding: no chunk at byte 8",
        "nesting: ",
    ]
    for outcome, reason in zip(outcomes(found), [*reasons, "Grüße aus Köln"], strict=True):
        assert outcome.startswith(reason)


def test_no_record_is_held_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warc, "MAX_RECORD_BYTES", 5000)
    bomb = http(gzip.compress(b"<p>" + b"a" * 100_000), "Content-Encoding: gzip")
    found, error = read(tmp_path, record(http(b"x" * 6000)) + record(bomb) + record(http(HTML.encode())))
    assert not error
    first, second, third = outcomes(found)
    assert first.startswith("file_size: 60")
    assert second == "file_size: more than 5000 bytes when decompressed"
    assert third == "Grüße aus Köln"


def test_an_archive_that_breaks_off_gives_what_comes_before(tmp_path: Path) -> None:
    pages = [record(http(f"<p>Seite {number}</p>".encode() * 40), number=number) for number in range(5)]
    whole = b"".join(pages)
    before = sum(map(len, pages[:3]))
    found, error = read(tmp_path, whole[: before + 600])
    assert [record.id for record in found] == [f"a.warc#0000-{number}" for number in range(4)]
    assert isinstance(found[3], Broken)
    assert found[3].reason.startswith("truncated: ")
    assert found[3].position == f"byte {before}"
    found, error = read(tmp_path, whole[: before + 60])  # in the record's header
    assert len(found) == 4
    assert outcomes(found)[3].startswith("truncated: the record's header")
    packed = b"".join(map(gzip.compress, pages))  # a member a record, as crawlers write it
    found, error = read(tmp_path, packed[:-100], "a.warc.gz")
    assert [record.id for record in found if isinstance(record, Document)] == [
        f"a.warc.gz#0000-{number}" for number in range(4)
    ]
    assert "in or behind the record at byte " in error
    assert "cut off" in error


def test_what_cannot_be_split_into_records_is_an_error(tmp_path: Path) -> None:
    page = record(http(HTML.encode()))
    found, error = read(tmp_path, page + b"garbage\r\n" * 9 + page)
    assert not error
    assert outcomes(found)[::2] == ["Grüße aus Köln"] * 2
    assert outcomes(found)[1].startswith("no_record: 81 bytes that belong to no record, from b'garbage")
    assert isinstance(found[1], Broken) and found[1].position == f"byte {len(page)}"
    assert "Invalid WARC header" in read(tmp_path, b"plain text\n" * 50)[1]
    damaged = bytearray(gzip.compress(page) + gzip.compress(page))
    damaged[-60:-50] = b"\0" * 10
    found, error = read(tmp_path, bytes(damaged), "a.warc.gz")
    assert outcomes(found)[0] == "Grüße aus Köln"
    assert "damaged" in error
    assert read(tmp_path, b"", "empty.warc") == ([], "")


PAGES = [f"Seite {number} spricht von {number * 7919}." for number in range(8)]


def pages() -> list[bytes]:
    return [record(http(f"<html><p>{text}".encode()), number=number) for number, text in enumerate(PAGES)]


def lengthened(data: bytes, by: int | str) -> bytes:
    """A record whose header says another length."""
    head, said, rest = re.split(rb"(?<=Content-Length: )(\d+)", data, maxsplit=1)
    return head + (by.encode() if isinstance(by, str) else b"%d" % (int(said) + by)) + rest


def stored(kind: str, parts: list[bytes]) -> bytes:
    match kind:
        case ".warc.gz":  # a member a record
            return b"".join(map(gzip.compress, parts))
        case ".whole.warc.gz":
            return gzip.compress(b"".join(parts))
        case ".warc.zst":
            return b"".join(map(zstandard.compress, parts))
    return b"".join(parts)


@pytest.mark.parametrize("kind", [".warc", ".warc.gz", ".whole.warc.gz", ".warc.zst"])
@pytest.mark.parametrize("by", [-1, 1, -3, 3, 4, 5, -40, 40, 170, 5000, 10**13, "-5", "", "abc", "0x10", "９"])
@pytest.mark.parametrize("which", [(0,), (1,), (7,), (2, 3, 4), (6, 7)])
def test_a_wrong_length_costs_no_other_record(tmp_path: Path, kind: str, by: int | str, which: tuple[int, ...]) -> None:
    parts = [lengthened(data, by) if number in which else data for number, data in enumerate(pages())]
    found, error = read(tmp_path, stored(kind, parts), f"a{kind}")
    assert not error
    assert [record.id.partition("#")[2] for record in found] == [f"0000-{number}" for number in range(len(PAGES))]
    assert outcomes(found) == PAGES
    for number, document in enumerate(found):
        assert isinstance(document, Document)
        told = document.metadata.get("repaired", "")
        assert (number in which) or not told
        if number in which and by in (-3, 170, 10**13, "-5", ""):
            assert told.startswith("Content-Length is ") and told.endswith(" bytes")


def test_a_missing_length_and_headers_of_other_spelling(tmp_path: Path) -> None:
    parts = pages()
    parts[1] = re.sub(rb"Content-Length: \d+\r\n", b"", parts[1])
    parts[2] = re.sub(rb"^[\w-]+(?=:)", lambda name: name[0].lower(), parts[2], flags=re.MULTILINE)
    parts[3] = re.sub(rb"^[\w-]+(?=:)", lambda name: name[0].upper(), parts[3], flags=re.MULTILINE)
    parts[4] = parts[4].replace(b": ", b":")
    parts[5] = parts[5].replace(b"WARC-Date", b"X-Note: folded\r\n  over lines\r\nWARC-Date")
    parts[6] = parts[6].replace(b"WARC/1.1", b"WARC/0.18")
    found, error = read(tmp_path, b"".join(parts))
    assert not error
    assert outcomes(found) == PAGES
    assert all(isinstance(document, Document) and document.url for document in found)


def test_records_that_are_passed_over_may_be_wrong_too(tmp_path: Path) -> None:
    described = [record(b"x: 1\r\n", kind, number=90) for kind in ("warcinfo", "request", "metadata")]
    parts = pages()[:2] + [lengthened(data, -2) for data in described] + pages()[2:4]
    parts += [lengthened(record(b"", "revisit", number=91), 3), *pages()[4:]]
    found, error = read(tmp_path, b"".join(parts))
    assert not error
    assert outcomes(found) == [*PAGES[:4], "revisit", *PAGES[4:]]


def test_a_page_may_speak_of_archives(tmp_path: Path) -> None:
    """A length that holds is believed, whatever the block looks like."""
    example = "<p>A record:<pre>\r\n\r\nWARC/1.0\r\nWARC-Type: response\r\n\r\n</pre><p>So it begins."
    found, error = read(tmp_path, record(http(example.encode())) + b"".join(pages()))
    assert not error and len(found) == 1 + len(PAGES)
    assert "So it begins." in outcomes(found)[0]


@pytest.mark.parametrize("kind", [".warc.gz", ".warc.zst"])
def test_a_damaged_member_costs_what_is_in_it(tmp_path: Path, kind: str) -> None:
    parts = [bytearray(stored(kind, [data])) for data in pages()]
    parts[3][30:60] = bytes(30)
    found, error = read(tmp_path, b"".join(parts), f"a{kind}")
    assert not error
    assert [record.text for record in found if isinstance(record, Document)] == [*PAGES[:3], *PAGES[4:]]
    (lost,) = [record for record in found if isinstance(record, Broken)]
    assert "the compressed file is damaged" in lost.reason and lost.position.startswith("byte ") and lost.is_damage


@pytest.mark.parametrize("packed", [False, True])
def test_a_dictionary_of_zstandard(tmp_path: Path, packed: bool) -> None:
    """As https://iipc.github.io/warc-specifications/specifications/warc-zstd/ has it."""
    parts = pages()
    samples: list[bytes | bytearray | memoryview[int]] = [*parts] * 20
    dictionary = zstandard.train_dictionary(2048, samples)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    kept = zstandard.compress(dictionary.as_bytes()) if packed else dictionary.as_bytes()
    first = b"\x5d\x2a\x4d\x18" + len(kept).to_bytes(4, "little") + kept
    frames = b"".join(map(compressor.compress, parts))
    assert outcomes(read(tmp_path, first + frames, "a.warc.zst")[0]) == PAGES
    for wrong in (frames, first[:8] + kept[:-600]):
        found, error = read(tmp_path, wrong, "b.warc.zst")
        assert not found and ("dictionary" in error or "cut off" in error), error
    other = zstandard.train_dictionary(2048, [bytes(range(256)) * 4, b"other" * 200] * 40).as_bytes()
    found, error = read(tmp_path, first[:4] + len(other).to_bytes(4, "little") + other + frames, "c.warc.zst")
    assert "dictionary" in error or all(isinstance(record, Broken) for record in found)


@settings(max_examples=100)
@given(st.data())
def test_no_damage_does_more_than_end_an_archive(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    damaged = bytearray(b"".join(record(http(HTML.encode()), number=number) for number in range(4)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    found, error = read(tmp_path_factory.mktemp("damage", numbered=True), bytes(damaged))
    assert len(found) <= 8
    assert error or found


@pytest.mark.parametrize(
    ("data", "charset", "text", "encoding"),
    [
        ("<p>Grüße".encode(), "iso-8859-1", "<p>Grüße", "utf-8"),  # the server is wrong
        ("<p>Grüße".encode("latin-1"), "iso-8859-1", "<p>Grüße", "windows-1252"),  # as browsers take it
        ("<p>Grüße".encode("latin-1"), "utf-8", "<p>Grüße", "windows-1252"),
        ("<meta charset='gbk'><p>中文网页".encode("gbk"), "", "<meta charset='gbk'><p>中文网页", "gbk"),
        ("<p>日本語".encode("shift_jis"), "x-sjis", "<p>日本語", "shift_jis"),
        ("<p>日本語".encode("iso-2022-jp"), "iso-2022-jp", "<p>日本語", "iso-2022-jp"),
        ("<p>Привет".encode("utf-16"), "", "<p>Привет", "utf-16-le"),
        ("<p>Привет".encode("utf-16-be"), "utf-16be", "<p>Привет", "utf-16-be"),
        (b"<meta charset=utf-16><p>a", "", "<meta charset=utf-16><p>a", "utf-8"),  # could not have been read
        (b'<?xml version="1.0" encoding="ISO-8859-2"?><p>\xb1', "", None, "iso8859-2"),
        (b"<p>a\r\nb", "nonsense", "<p>a\nb", "utf-8"),
        (RUSSIAN.encode("koi8-r"), "", RUSSIAN, "koi8-r"),  # told by its letters
    ],
)
def test_encodings_of_pages(data: bytes, charset: str, text: str | None, encoding: str) -> None:
    found = decode_page(data, charset)
    assert found.encoding.replace("iso2022_jp", "iso-2022-jp").replace("-", "").lower() == encoding.replace("-", "")
    assert text is None or found.text == text
    assert found.replaced == 0
    assert text is not None or "ą" in found.text


def test_main_content_is_what_navigation_is_not() -> None:
    html = "<body><nav><a href=/>Start</a></nav><main><p>Ein Absatz.</p><img alt='Bild'></main><footer>Ende</footer>"
    assert extract(html, main_content=True).text == "Ein Absatz."
    everything = extract(html, main_content=False).text
    assert "Start" in everything
    assert "Ende" in everything
    assert "Bild" not in everything


def test_published_archives() -> None:
    folder = SHARED_DATA / "redpajama_like"
    if not folder.exists():
        pytest.skip("../shared/data/redpajama_like is missing")
    source = WarcSource(path=str(folder / "dolma" / "tests" / "data" / "warc"))
    found = [record for file in source.list_files() for record in source.read(file)]
    # Of the 82 records, 37 describe requests, 4 the archives; 4 are what wget logged.
    assert Counter("" if isinstance(record, Document) else record.reason for record in found) == {
        "": 37,
        "not_html: text/plain": 4,
    }
    assert len({record.id for record in found}) == 41
    whirlwind = folder / "commoncrawl-whirlwind"
    texts: dict[str, str] = {}
    for name in ("whirlwind.warc", "whirlwind.warc.wet", "whirlwind.warc.wat"):
        for ending in ("", ".gz"):
            source = WarcSource(path=str(whirlwind / (name + ending)))
            (file,) = source.list_files()
            texts[name + ending] = "".join(outcomes(list(source.read(file))))
    assert texts["whirlwind.warc"] == texts["whirlwind.warc.gz"]
    assert texts["whirlwind.warc.wet"] == texts["whirlwind.warc.wet.gz"]
    assert texts["whirlwind.warc.wat"] == texts["whirlwind.warc.wat.gz"] == ""  # metadata throughout
    assert "Escopete" in texts["whirlwind.warc"]
    assert "Menú principal" in texts["whirlwind.warc.wet"]
    assert "Menú principal" not in texts["whirlwind.warc"]
    by_default = WarcSource(path=str(whirlwind)).list_files()
    assert not any(".wat" in file.name for file in by_default)


@pytest.mark.parametrize("length", [10, 60, 150, 280])
def test_a_file_that_was_cut_off_hides_no_record_of_one_that_was_appended(tmp_path: Path, length: int) -> None:
    """`cat a.warc b.warc`, the first broken off in a header or a page: the next begins in the middle of a line."""
    whole = [record(http(HTML.encode()), number=number) for number in range(6)]
    whole[2] = whole[2][:length]
    found, error = read(tmp_path, b"".join(whole))
    assert not error
    numbers = [entry.id[-1] for entry in found if isinstance(entry, Document) and entry.text == "Grüße aus Köln"]
    assert numbers == ["0", "1", "3", "4", "5"]
    assert len(found) == 6


def test_a_version_in_lower_case_and_a_mark_before_all(tmp_path: Path) -> None:
    whole = b"".join(record(http(HTML.encode()), number=number) for number in range(3))
    for data in (whole.replace(b"WARC/1.1", b"warc/1.1"), b"\xef\xbb\xbf" + whole):
        found, error = read(tmp_path, data)
        assert (outcomes(found), error) == (["Grüße aus Köln"] * 3, "")
