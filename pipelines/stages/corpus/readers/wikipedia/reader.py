"""Dumps of MediaWiki, such as Wikipedia's `pages-articles.xml.bz2`: a document an article, without markup.

What is no article (redirects, pages of other namespaces, pages that are not wikitext) comes out as `Broken` with that
reason, so that every page of a dump is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from cluster.control.failures import describe
from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading.files import open_stream

if TYPE_CHECKING:
    from pipelines.stages.corpus.readers.wikipedia.dump import Page, Site

LICENSE = "CC-BY-SA-4.0"  # of Wikimedia's wikis since June 2023
URL_SAFE = ";@$!*(),/~:"  # what MediaWiki leaves as it is
_REDIRECT = re.compile(r"\s*#\w+\s*:?\s*\[\[([^\]|]+)")


class WikipediaSource(Source, frozen=True, tag="wikipedia"):
    """Dumps of MediaWiki (`pages-articles.xml.bz2`): articles without markup; redirects are no documents."""

    endings: ClassVar[tuple[str, ...]] = (".xml", ".bz2")

    templates: bool = False
    """Keep what the arguments of every template hold; else only templates that stand for words of the text are kept."""

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """A document an article, `<file>#<page id>`; metadata holds `title`, `revision`, `timestamp` and `language`.

        Reasons of `Broken` are `redirect`, `namespace`, `model`, `no_text`, and `markup` for what is too long or nested
        too deep. Raises ValueError where the XML is malformed or cut off.
        """
        from pipelines.stages.corpus.readers.wikipedia.dump import pages

        with open_stream(file) as stream:
            for site, page in pages(stream):
                id_ = f"{file.name}#{page.id or page.title}"
                try:
                    text = self._text(site, page)
                except ValueError as error:
                    yield Broken(id_, f"page {page.title!r}", str(error))
                    continue
                except Exception as error:  # whatever the markup does to a parser costs one page
                    yield Broken(id_, f"page {page.title!r}", f"failed: {describe(error)}")
                    continue
                metadata = {
                    "title": page.title,
                    "revision": page.revision.id,
                    "timestamp": page.revision.timestamp,
                    "language": site.language,
                }
                places = {**file.origin, "license": self.license or LICENSE}
                if site.prefix:
                    places["url"] = site.prefix + quote(page.title.replace(" ", "_"), safe=URL_SAFE)
                yield Document(id_, text, metadata={name: value for name, value in metadata.items() if value}, **places)

    def _text(self, site: Site, page: Page) -> str:
        """The article's text. Raises ValueError, its message the reason, where the page is none."""
        from pipelines.stages.corpus.readers.wikipedia.wikitext import to_text

        if page.redirect:
            raise ValueError(f"redirect: {page.redirect}")
        if page.namespace not in ("", "0"):
            raise ValueError(f"namespace: {page.namespace}")
        if page.revision.model not in ("", "wikitext"):
            raise ValueError(f"model: {page.revision.model}")
        if found := _REDIRECT.match(page.revision.markup):  # dumps before 2012 say it nowhere else
            raise ValueError(f"redirect: {found[1]}")
        text = to_text(page.revision.markup, removed=site.removed, templates=self.templates, language=site.language)
        if not text:
            raise ValueError("no_text")
        return text
