"""Where documents come from: one struct a kind of source, told apart in YAML by its `reader`.

A new reader is a struct here, its line in `AnySource`, and a function in `pipelines/stages/corpus/readers`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from cluster.core.specs.naming import names_files


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="reader"):
    """Base of all sources: files, however they are read."""

    path: Annotated[str, names_files(suffixes="pipelines.stages.corpus.readers:suffixes")] = ""
    """File, folder (searched recursively) or glob; local, or any fsspec URL such as `s3://bucket/prefix`."""
    name: str = ""
    """What the documents' `source` says; empty takes the last part of `path`."""
    suffixes: tuple[str, ...] = ()
    """Endings of the files to read, also compressed (`.gz`, `.zst`, `.bz2`, `.xz`); empty: the reader's own."""
    license: str = ""
    """Licence of documents that do not bring one; empty says `unknown`."""
    assign: Literal["by_hash", "train", "heldout"] = "by_hash"
    """Split that this source's documents go to, where it is published; `by_hash` draws for each. A near-duplicate
    goes where the first of its kind goes all the same."""


class InstalledPythonSource(Source, frozen=True, tag="installed-python"):
    """The standard library and site-packages of this Python, with licences from the packages' metadata."""


class TextSource(Source, frozen=True, tag="text"):
    """A file is a document: plain text or source code. UTF-8, UTF-16, UTF-32, GB18030 and Windows-1252 are told apart
    where that is sure; text in other encodings becomes U+FFFD, counted, unless `encoding` says what it is."""

    encoding: str = ""
    """Encoding of all files without a byte order mark, such as `cp1250`, `koi8-r` or `big5`; empty detects it."""


class JatsSource(Source, frozen=True, tag="jats"):
    """Articles of PMC and Europe PMC: JATS/NLM XML, alone, many in one file, or in `.tar.gz` packages; plain texts.

    Translations, reviewers' reports and replies within an article are documents of their own.
    """

    tables: bool = False
    """Keep tables, a row a line, cells apart by ` | `, those that span several rows or columns in each; captions and
    notes of tables stay in any case.
    """
    formulas: bool = True
    """Keep formulas: TeX as it is, else MathML as text such as `(a + b)/c_i`."""
    references: bool = False
    """Keep the list of references."""
    acknowledgements: bool = False
    """Keep acknowledgements, funding, conflicts of interest and other notes about the authors. In the body a section is
    such only where it is short and last.
    """


class JsonLinesSource(Source, frozen=True, tag="jsonl"):
    """JSON: an object a line, or an array of objects, or objects written over several lines; whatever the ending."""

    text_field: str = "text"
    """Field that holds the text, or a list of strings, joined by newlines; dots reach into objects (`content.body`)."""
    id_field: str = ""
    """Field that identifies a document; empty numbers the records of a file."""


class RedPajamaSource(Source, frozen=True, tag="redpajama"):
    """RedPajama v1 (all seven slices) and v2 (documents beside their quality signals) in their published layouts."""


class ParquetSource(Source, frozen=True, tag="parquet"):
    """Parquet files with a column of texts (or of lists of strings). Columns of bytes are left out."""

    text_field: str = "text"
    """Column that holds the text; dots reach into structs."""
    id_field: str = ""
    """Column that identifies a document; empty numbers the rows of a file."""


class CodeSource(Source, frozen=True, tag="code"):
    """Source code in CodeParrot's layout: JSON lines of `repo_name`, `path`, `content`, `license`."""


class WarcSource(Source, frozen=True, tag="warc"):
    """Web archives: HTML pages from WARC (main content extracted), or the text of WET."""

    main_content: bool = True
    """Leave out navigation, headers and footers."""


class WikipediaSource(Source, frozen=True, tag="wikipedia"):
    """Dumps of MediaWiki (`pages-articles.xml.bz2`): articles without markup; redirects are no documents."""

    templates: bool = False
    """Keep what the arguments of every template hold; else only templates that stand for words of the text are kept."""


class HuggingFaceSource(Source, frozen=True, tag="huggingface"):
    """A dataset of the Hugging Face hub (`path` is its id, such as `allenai/c4`) or of a local folder in its layout."""

    subset: str = ""
    """Configuration of the dataset, such as `en`."""
    split: str = "train"
    """Split to read, as the dataset's card or the names of its files and folders say."""
    revision: str = "main"
    """Branch, tag or commit of the dataset's repository."""
    text_field: str = "text"
    """Column or field that holds the text."""


AnySource = (
    InstalledPythonSource
    | TextSource
    | JatsSource
    | JsonLinesSource
    | RedPajamaSource
    | ParquetSource
    | CodeSource
    | WarcSource
    | WikipediaSource
    | HuggingFaceSource
)
