"""Web archives (ISO 28500): HTML pages from WARC, and the text of WET as it is.

What describes other records (`warcinfo`, `request`, `metadata`, hence all of WAT) is passed over; every other record is
a document or says why not. FastWARC splits the archive into records. It gets decompressed bytes and sees no HTTP: given
gzip it takes a truncated file for a whole one, and one page with a wrong `Content-Encoding` would end the archive.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from fastwarc.warc import ArchiveIterator, HeaderMap, WarcRecord, WarcRecordType

from cluster.specs.sources import WarcSource
from pipelines.corpus.documents import Broken, Document, SourceFile
from pipelines.corpus.encodings import Decoded, decode
from pipelines.corpus.files import open_stream
from pipelines.corpus.readers import UNREADABLE
from pipelines.corpus.readers.html_pages import decode_page, extract
from pipelines.corpus.readers.http_responses import decoded_body, media_type, parse_response

MAX_RECORD_BYTES = 16 << 20  # Common Crawl cuts pages at 5 MiB
DESCRIPTIONS = WarcRecordType.warcinfo | WarcRecordType.request | WarcRecordType.metadata
PAGE_TYPES = ("text/html", "application/xhtml+xml")
_URN = re.compile(r"^<?(?:urn:uuid:)?|>$")
_SNIFFED = re.compile(rb"<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_SNIFFED_BYTES = 1024


def read(source: WarcSource, file: SourceFile) -> Iterator[Document | Broken]:
    """A document a page: `response` and `resource` records of HTML or XHTML, `conversion` records of plain text.

    Its id is `<file>#<WARC-Record-ID>`; metadata holds `date`, and where known `title`, `language` (the page's own
    word, not detected), `encoding`, `replacement_characters`, and `truncated`, why the crawler cut the page. Reasons of
    `Broken` are `not_html`, `http_status`, `file_size`, `revisit`, `truncated` and the like; positions are bytes of the
    decompressed file.
    """
    with open_stream(file) as stream:
        for record, block in _records(stream):
            name = _URN.sub("", record.record_id or "") or f"byte-{record.stream_pos}"
            id_ = f"{file.name}#{name}"
            try:
                if isinstance(block, str):
                    raise ValueError(block)
                text, metadata = _text(source, record, block)
            except ValueError as error:
                yield Broken(id_, f"byte {record.stream_pos}", str(error))
                continue
            places = dict(file.origin)
            if url := record.headers.get("WARC-Target-URI"):
                places["url"] = url.strip("<>")
            yield Document(id_, text, metadata=metadata, **places)


class _Input(io.RawIOBase):
    """A stream for FastWARC: it panics without `tell`, and `read1` hands over what comes before damage."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read1(size)

    def tell(self) -> int:
        return 0


def _records(stream: io.BufferedReader) -> Iterator[tuple[WarcRecord, bytes | str]]:
    """All records but descriptions, with their blocks, or with why there is none. Raises one of `UNREADABLE`."""
    position = 0
    try:
        for record in ArchiveIterator(_Input(stream), parse_http=False, stream_detect=False):
            position = record.stream_pos
            is_description = bool(record.record_type & DESCRIPTIONS)
            block: bytes | str = b""
            if is_description or record.content_length > MAX_RECORD_BYTES:
                size_bytes = record.consume()
                block = f"file_size: {record.content_length} bytes, more than {MAX_RECORD_BYTES}"
            else:
                block = record.reader.read()
                size_bytes = len(block)
            if "Content-Length" not in record.headers:
                yield record, "truncated: the record's header has no Content-Length; the file was cut off there"
            elif size_bytes < record.content_length:
                yield record, f"truncated: {size_bytes} of {record.content_length} bytes; the file was cut off there"
            elif not is_description:
                yield record, block
    except UNREADABLE as error:
        raise ValueError(f"in or behind the record at byte {position}: {error}") from error


def _text(source: WarcSource, record: WarcRecord, block: bytes) -> tuple[str, dict[str, str | int]]:
    """The text of a record and what is known of it. Raises ValueError, its message the reason, where there is none."""
    match record.record_type:
        case WarcRecordType.response | WarcRecordType.resource:
            found, title, language = _page(source, record, block)
        case WarcRecordType.conversion:
            content_type, _ = media_type(_header(record.headers, "Content-Type"))
            if content_type != "text/plain":
                raise ValueError(f"not_text: {content_type or 'no content type'}")
            found, title, language = decode(block), "", _header(record.headers, "WARC-Identified-Content-Language")
        case WarcRecordType.revisit | WarcRecordType.continuation as kind:
            raise ValueError(str(kind))
        case _:
            raise ValueError(f"record_type: {_header(record.headers, 'WARC-Type') or 'none'}")
    if not found.text.strip():
        raise ValueError("no_text")
    metadata: dict[str, str | int] = {
        "date": _header(record.headers, "WARC-Date"),
        "title": title,
        "language": language,
        "encoding": "" if found.encoding == "utf-8" else found.encoding,
        "replacement_characters": found.replaced,
        "truncated": _header(record.headers, "WARC-Truncated"),
    }
    return found.text, {name: value for name, value in metadata.items() if value}


def _page(source: WarcSource, record: WarcRecord, block: bytes) -> tuple[Decoded, str, str]:
    """The text that a page shows, with its encoding; its title; its language."""
    kind, charset = media_type(_header(record.headers, "Content-Type"))
    language = ""
    if kind == "application/http":
        try:
            response = parse_response(block)
        except ValueError as error:
            raise ValueError(f"http: {error}") from error
        if response.status != 200:
            raise ValueError(f"http_status: {response.status}")
        kind, charset = media_type(response.headers.get("content-type", ""))
        language = response.headers.get("content-language", "")
        block = decoded_body(response, MAX_RECORD_BYTES)
        if len(block) > MAX_RECORD_BYTES:
            raise ValueError(f"file_size: more than {MAX_RECORD_BYTES} bytes when decompressed")
    kind = _header(record.headers, "WARC-Identified-Payload-Type").lower() or kind
    if not kind and _SNIFFED.search(block, 0, _SNIFFED_BYTES):
        kind = PAGE_TYPES[0]
    if kind not in PAGE_TYPES:
        raise ValueError(f"not_html: {kind or 'no content type'}")
    decoded = decode_page(block, charset)
    page = extract(decoded.text, source.main_content)
    return decoded._replace(text=page.text), page.title, page.language or language


def _header(headers: HeaderMap, name: str) -> str:
    return (headers.get(name) or "").strip()
