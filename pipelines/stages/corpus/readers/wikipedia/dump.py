"""The pages of a dump of MediaWiki. The XML is parsed as it streams, a page in memory at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

from lxml import etree

from pipelines.stages.corpus.readers.wikipedia.wikitext import FILES_AND_CATEGORIES
from pipelines.stages.corpus.reading.files import MAX_DOCUMENT_BYTES

CHUNK_BYTES = 1 << 16
REMOVED_NAMESPACES = ("-2", "6", "14")  # media, files, categories: what links to them is not text
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


class Site(NamedTuple):
    """What a dump says of its wiki: language, the address that titles are put behind, namespaces that hold no text."""

    language: str
    prefix: str
    removed: frozenset[str]


class Revision(NamedTuple):
    """A state of a page; what the dump does not say is empty."""

    id: str = ""
    timestamp: str = ""
    model: str = ""
    markup: str = ""


class Page(NamedTuple):
    """A page in the last revision that the dump has of it."""

    id: str
    title: str
    namespace: str
    redirect: str
    revision: Revision


def pages(stream: io.BufferedReader) -> Iterator[tuple[Site, Page]]:
    """The pages of a dump in its order. Raises ValueError with the line where the XML breaks off."""
    parser = etree.XMLPullParser(
        ("start", "end"),
        tag=("{*}mediawiki", "{*}siteinfo", "{*}revision", "{*}page"),
        huge_tree=True,  # no limit to the file; the bytes between two pages or revisions are bounded here
        resolve_entities=False,
        no_network=True,
        remove_comments=True,
        remove_pis=True,
    )
    site, revision = Site("", "", FILES_AND_CATEGORIES), Revision()
    problem: etree.XMLSyntaxError | None = None
    is_dump = False
    pending_bytes = 0
    chunk = b" "
    while chunk and problem is None:
        chunk = stream.read1(CHUNK_BYTES)
        pending_bytes += len(chunk)
        try:
            if chunk:
                parser.feed(chunk)
            else:
                parser.close()
        except etree.XMLSyntaxError as error:  # raised when what came before it has been handed on
            problem = error
        for event, element in parser.read_events():
            kind = etree.QName(element).localname
            if event == "start":
                if kind == "mediawiki":
                    is_dump = True
                    site = site._replace(language=element.get(_LANGUAGE, ""))
                continue
            pending_bytes = 0
            if kind == "siteinfo":
                site = _site(element, site.language)
            elif kind == "revision":
                revision = Revision(*(_child(element, name) for name in ("id", "timestamp", "model", "text")))
                element.clear()
            elif kind == "page":
                yield site, _page(element, revision)
                revision = Revision()
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
        if pending_bytes > MAX_DOCUMENT_BYTES:
            raise ValueError(f"no page ends in {MAX_DOCUMENT_BYTES} bytes: this is no dump of MediaWiki's pages")
    if problem is not None:
        raise ValueError(f"line {problem.lineno}: {problem.msg}")
    if not is_dump:
        raise ValueError("no element <mediawiki>: this is no dump of MediaWiki's pages")


def _site(siteinfo: etree._Element, language: str) -> Site:
    base = _child(siteinfo, "base")
    names = siteinfo.iterfind("{*}namespaces/{*}namespace")
    removed = {(name.text or "").lower() for name in names if name.get("key") in REMOVED_NAMESPACES}
    return Site(language, base[: base.rfind("/") + 1], FILES_AND_CATEGORIES | removed)


def _page(page: etree._Element, revision: Revision) -> Page:
    redirect = page.find("{*}redirect")
    target = "" if redirect is None else redirect.get("title", "")
    return Page(_child(page, "id"), _child(page, "title"), _child(page, "ns"), target, revision)


def _child(element: etree._Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""
