"""The articles in a stream of JATS, and the documents of each.

A sub-article or response (translation, report of a referee, reply) is a document of its own: another language or
another author is another text. It keeps its article's licence, journal and date, and says whose `part_of` it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from pipelines.stages.corpus.documents import Broken, Document
from pipelines.stages.corpus.readers.jats.license import license_of
from pipelines.stages.corpus.readers.jats.meta import PMCID, local, meta_of, metadata, url_of
from pipelines.stages.corpus.readers.jats.powers import mark_powers
from pipelines.stages.corpus.readers.jats.prolog import Malformed, Prolog, Stray
from pipelines.stages.corpus.readers.jats.text import Parts, text_of
from pipelines.stages.corpus.readers.jats.xml import Piece, cut
from pipelines.stages.corpus.readers.jats.xrefs import fill_xrefs
from pipelines.stages.corpus.reading.files import MAX_DOCUMENT_BYTES

INHERITED = ("pmcid", "journal", "date", "version")


def articles(parts: Parts, id: str, where: str, stream: IO[bytes]) -> Iterator[Document | Broken]:
    prolog = Prolog()
    for number, piece in enumerate(cut(stream), 1):
        stray = prolog.read(piece)
        if piece.data:
            own_id = id if number == 1 and not prolog.is_wrapped else f"{id}#{number}"
            yield from _read_article(parts, own_id, where, piece, prolog, stray)
        elif number == 1:
            place = _place(where, stray.line, stray.column) if stray else where
            reason = f"no_article: no <article> begins, but {stray.text!r}" if stray else "no_article: no <article>"
            yield Broken(id, place, reason if piece.gap.strip() else "empty")
        elif stray:
            place = _place(where, stray.line, stray.column)
            yield Broken(f"{id}#end", place, f"stray: behind the last article stands {stray.text!r}")


def _read_article(
    parts: Parts, id: str, where: str, piece: Piece, prolog: Prolog, stray: Stray | None
) -> Iterator[Document | Broken]:
    if not piece.is_closed and len(piece.data) > MAX_DOCUMENT_BYTES:
        yield Broken(id, _place(where, *piece.at), f"too_large: more than {MAX_DOCUMENT_BYTES} bytes")
        return
    try:
        article, notes = prolog.parse(piece)
        fill_xrefs(article)
        mark_powers(article)
        if stray:
            notes["skipped"] = f"line {stray.line}, column {stray.column}: {stray.text}"
        yield from _documents(parts, id, _place(where, *piece.at), article, notes)
    except Malformed as error:
        kind = "malformed" if piece.is_closed else "truncated"
        yield Broken(id, _place(where, error.line, error.column), f"{kind}: {error.reason}")
    except RecursionError:
        yield Broken(id, _place(where, *piece.at), "malformed: elements are nested too deeply")


def _documents(
    parts: Parts, id: str, place: str, article: Any, notes: dict[str, Any], above: Document | None = None
) -> Iterator[Document | Broken]:
    """An article's document, then those of the articles within it."""
    known, meta = metadata(article), meta_of(article)
    license = "" if meta is None else license_of(meta)
    if above is not None:
        inherited = {name: above.metadata[name] for name in INHERITED if name in above.metadata}
        known = inherited | known | {"part_of": above.metadata.get("part_of", above.id)}
        license = license or above.license
    elif "pmcid" not in known and (named := PMCID.search(id)):
        known["pmcid"] = named[1]
    document = Document(id, text_of(article, parts), license=license, url=url_of(known), metadata=known | notes)
    yield document if document.text else Broken(id, place, "no_text: neither title nor abstract nor body")
    within = (child for child in article if local(child) in ("sub-article", "response"))
    for number, part in enumerate(within, 1):
        yield from _documents(parts, f"{id}#part{number}", place, part, notes, document)


def _place(where: str, line: int, column: int) -> str:
    return f"{where}{', ' if where else ''}line {line}, column {column}"
