"""Articles of PMC and Europe PMC: JATS/NLM XML alone, many in one root, or in packages; and PMC's plain texts.

A sub-article or response (translation, report of a referee, reply) is a document of its own: another language or
another author is another text. It keeps its article's licence, journal and date, and says whose `part_of` it is.
A package (`.tar.gz`) is read as a stream. In it only texts that PMC made are taken, not authors' supplements.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

from cluster.core.storage.location import PACKED
from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.jats.license import license_of
from pipelines.stages.corpus.readers.jats.meta import local, meta_of, metadata, url_of
from pipelines.stages.corpus.readers.jats.powers import mark_powers
from pipelines.stages.corpus.readers.jats.prolog import Malformed, Prolog, Stray, noted
from pipelines.stages.corpus.readers.jats.text import text_of
from pipelines.stages.corpus.readers.jats.xml import Piece, cut
from pipelines.stages.corpus.readers.jats.xrefs import fill_xrefs
from pipelines.stages.corpus.readers.sources import JatsSource
from pipelines.stages.corpus.reading.encodings import decode
from pipelines.stages.corpus.reading.files import MAX_DOCUMENT_BYTES, open_stream

INHERITED = ("pmcid", "journal", "date", "version")
_PMCID = re.compile(r"(?:^|[/#])(PMC\d+)(?:\.\d+)?\.[A-Za-z.]+$")  # at the end of a file's or member's name
_MARK = re.compile(r"^==== (Front|Body|Refs)[ \t]*\r?$", re.MULTILINE)


def read(source: JatsSource, file: SourceFile) -> Iterator[Document | Broken]:
    """The articles of a file. Raises one of `UNREADABLE` where its compression is damaged."""
    name = file.name.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    with open_stream(file) as stream:
        if name.endswith((".tar", ".tgz")):
            yield from _read_package(source, file.name, stream)
        elif name.endswith(".txt"):
            yield _read_text(source, file.name, "", stream.read(MAX_DOCUMENT_BYTES + 1))
        else:
            yield from _marked(_read_xml(source, file.name, "", stream))


def _marked(found: Iterator[Document | Broken]) -> Iterator[Document | Broken]:
    """Where the last article of a file is not finished, the file breaks off there."""
    last: Document | Broken | None = None
    for record in found:
        if last is not None:
            yield last
        last = record
    if isinstance(last, Broken) and last.reason.startswith("truncated"):
        last = replace(last, ends_file=True)
    if last is not None:
        yield last


def _read_package(source: JatsSource, name: str, stream: IO[bytes]) -> Iterator[Document | Broken]:
    last = ""
    try:
        with tarfile.open(fileobj=stream, mode="r|") as package:
            while (member := package.next()) is not None:
                package.members = []  # type: ignore[attr-defined]  # or a package of a million files would be kept
                last = member.name
                content = package.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                where = f"member {member.name}"
                if member.name.lower().endswith((".xml", ".nxml")):
                    yield from _read_xml(source, f"{name}#{member.name}", where, content)
                elif member.name.lower().endswith(".txt"):
                    data = content.read(MAX_DOCUMENT_BYTES + 1)
                    if _PMCID.search(member.name) or data.lstrip().startswith(b"==== Front"):
                        yield _read_text(source, f"{name}#{member.name}", where, data)
    except tarfile.TarError as error:
        yield Broken(name, f"after member {last}" if last else "", f"truncated: {error}", ends_file=True)


def _read_xml(source: JatsSource, id: str, where: str, stream: IO[bytes]) -> Iterator[Document | Broken]:
    prolog = Prolog()
    for number, piece in enumerate(cut(stream), 1):
        stray = prolog.read(piece)
        if piece.data:
            own_id = id if number == 1 and not prolog.is_wrapped else f"{id}#{number}"
            yield from _read_article(source, own_id, where, piece, prolog, stray)
        elif number == 1:
            place = _place(where, stray.line, stray.column) if stray else where
            reason = f"no_article: no <article> begins, but {stray.text!r}" if stray else "no_article: no <article>"
            yield Broken(id, place, reason if piece.gap.strip() else "empty")
        elif stray:
            place = _place(where, stray.line, stray.column)
            yield Broken(f"{id}#end", place, f"stray: behind the last article stands {stray.text!r}")


def _read_article(
    source: JatsSource, id: str, where: str, piece: Piece, prolog: Prolog, stray: Stray | None
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
        yield from _documents(source, id, _place(where, *piece.at), article, notes)
    except Malformed as error:
        kind = "malformed" if piece.is_closed else "truncated"
        yield Broken(id, _place(where, error.line, error.column), f"{kind}: {error.reason}")
    except RecursionError:
        yield Broken(id, _place(where, *piece.at), "malformed: elements are nested too deeply")


def _documents(
    source: JatsSource, id: str, place: str, article: Any, notes: dict[str, Any], above: Document | None = None
) -> Iterator[Document | Broken]:
    """An article's document, then those of the articles within it."""
    known, meta = metadata(article), meta_of(article)
    license = "" if meta is None else license_of(meta)
    if above is not None:
        inherited = {name: above.metadata[name] for name in INHERITED if name in above.metadata}
        known = inherited | known | {"part_of": above.metadata.get("part_of", above.id)}
        license = license or above.license
    elif "pmcid" not in known and (named := _PMCID.search(id)):
        known["pmcid"] = named[1]
    document = Document(id, text_of(article, source), license=license, url=url_of(known), metadata=known | notes)
    yield document if document.text else Broken(id, place, "no_text: neither title nor abstract nor body")
    parts = (child for child in article if local(child) in ("sub-article", "response"))
    for number, part in enumerate(parts, 1):
        yield from _documents(source, f"{id}#part{number}", place, part, notes, document)


def _read_text(source: JatsSource, id: str, where: str, data: bytes) -> Document | Broken:
    """A plain text. Of PMC's with marks the body stays (and the references): its front runs names, addresses, title and
    abstract into one another.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        return Broken(id, where, f"too_large: more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        text, encoding, replaced = decode(data)
    except ValueError as error:
        return Broken(id, where, f"malformed: {error}")
    marks = list(_MARK.finditer(text))
    if marks:
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        wanted = ("Body", "Refs") if source.references else ("Body",)
        parts = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True) if mark[1] in wanted]
        text = "\n\n".join(parts)
    text = text.strip()
    if not text:
        return Broken(id, where, "empty" if not data.strip() else "no_text: no body")
    named = _PMCID.search(id)
    known = {"pmcid": named[1]} if named else {}
    notes = noted(encoding, replaced)
    return Document(id, text, url=url_of(known), metadata=known | notes)


def _place(where: str, line: int, column: int) -> str:
    return f"{where}{', ' if where else ''}line {line}, column {column}"
