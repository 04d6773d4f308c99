"""Web archives (ISO 28500): HTML pages from WARC, and the text of WET as it is.

What describes other records (`warcinfo`, `request`, `metadata`, hence all of WAT) is passed over; every other record is
a document or says why not. The archive is split by `warc_records`: libraries that do so end it at the first header that
is wrong, and say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from cluster.control.failures import describe
from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.readers.warc.records import Record, records
from pipelines.stages.corpus.reading.encodings import Decoded, decode
from pipelines.stages.corpus.reading.files import open_stream

MAX_RECORD_BYTES = 16 << 20  # Common Crawl cuts pages at 5 MiB
PAGE_TYPES = ("text/html", "application/xhtml+xml")
_URN = re.compile(r"^<?(?:urn:uuid:)?|>$")
_SNIFFED = re.compile(rb"<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_SNIFFED_BYTES = 1024


class WarcSource(Source, frozen=True, tag="warc"):
    """Web archives: HTML pages from WARC (main content extracted), or the text of WET."""

    endings: ClassVar[tuple[str, ...]] = (".warc", ".wet")

    main_content: bool = True
    """Leave out navigation, headers and footers."""

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """A document a page: `response` and `resource` records of HTML or XHTML, `conversion` records of plain text.

        Its id is `<file>#<WARC-Record-ID>`; metadata holds `date`, and where known `title`, `language` (the page's own
        word, not detected), `encoding`, `replacement_characters`, `truncated`, why the crawler cut the page, and
        `repaired`, what the record's header says wrongly of its length. Reasons of `Broken` are `not_html`,
        `http_status`, `file_size`, `revisit`, `truncated`, `no_record` and the like; positions are bytes of the
        decompressed file.
        """
        with open_stream(file) as stream:
            for record in records(stream, MAX_RECORD_BYTES):
                name = _URN.sub("", record.headers.get("warc-record-id", "")) or f"byte-{record.position}"
                id_ = f"{file.name}#{name}"
                try:
                    if record.problem:
                        raise ValueError(record.problem)
                    text, metadata = self._text(record)
                except ValueError as error:
                    yield Broken(id_, f"byte {record.position}", str(error), ends_file=record.is_cut)
                    continue
                except (RuntimeError, LookupError, TypeError) as error:  # of the libraries that read HTML
                    yield Broken(id_, f"byte {record.position}", f"failed: {describe(error)}")
                    continue
                places = dict(file.origin)
                if url := record.headers.get("warc-target-uri"):
                    places["url"] = url.strip("<>")
                yield Document(id_, text, metadata=metadata, **places)

    def _text(self, record: Record) -> tuple[str, dict[str, str | int]]:
        """The text of a record and what is known of it. Raises ValueError with the reason where there is none."""
        headers = record.headers
        match record.kind:
            case "response" | "resource":
                found, title, language = self._page(record)
            case "conversion":
                from pipelines.stages.corpus.readers.warc.http_responses import media_type

                content_type, _ = media_type(headers.get("content-type", ""))
                if content_type != "text/plain":
                    raise ValueError(f"not_text: {content_type or 'no content type'}")
                found, title, language = decode(record.block), "", headers.get("warc-identified-content-language", "")
            case "revisit" | "continuation":
                raise ValueError(record.kind)
            case _:
                raise ValueError(f"record_type: {record.kind or 'none'}")
        if not found.text.strip():
            raise ValueError("no_text")
        metadata: dict[str, str | int] = {
            "date": headers.get("warc-date", ""),
            "title": title,
            "language": language,
            "encoding": "" if found.encoding == "utf-8" else found.encoding,
            "replacement_characters": found.replaced,
            "truncated": headers.get("warc-truncated", ""),
            "repaired": record.note,
        }
        return found.text, {name: value for name, value in metadata.items() if value}

    def _page(self, record: Record) -> tuple[Decoded, str, str]:
        """The text that a page shows, with its encoding; its title; its language."""

        from pipelines.stages.corpus.readers.html_pages import decode_page, extract
        from pipelines.stages.corpus.readers.warc.http_responses import decoded_body, media_type, parse_response

        block, language = record.block, ""
        kind, charset = media_type(record.headers.get("content-type", ""))
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
        kind = record.headers.get("warc-identified-payload-type", "").lower() or kind
        if not kind and _SNIFFED.search(block, 0, _SNIFFED_BYTES):
            kind = PAGE_TYPES[0]
        if kind not in PAGE_TYPES:
            raise ValueError(f"not_html: {kind or 'no content type'}")
        decoded = decode_page(block, charset)
        page = extract(decoded.text, self.main_content)
        return decoded._replace(text=page.text), page.title, page.language or language
