"""Lists of the user's: addresses as UT1 publishes them, and words as LDNOOBW does.

A list of millions of domains is kept as sorted 64-bit hashes (8 bytes each; a chance of 1e-12 a lookup to meet a wrong
one among 10 million). Lists are read once a process.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Annotated, NamedTuple

from msgspec import Meta

from cluster.core.errors import InputError
from cluster.core.specs.naming import File
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules import inputs
from pipelines.stages.corpus.rules.rule import Positive, Rule
from pipelines.stages.corpus.rules.unicode import well_formed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Sha256 = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]

_SEPARATORS = re.compile(r"[^a-z0-9]+")
_WORD = re.compile(r"\w+")
# Scripts that set no blanks between words: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def _lines(path: str, sha256: str, field: str) -> list[str]:
    """The entries of a list, lower-cased: the lines of a file, or of all `domains` and `urls` below a folder."""
    urls = inputs.find(path, f"{field}: path")
    if len(urls) > 1:
        urls = [url for url in urls if inputs.uncompressed_name(url).rsplit("/", 1)[-1] in ("domains", "urls")]
    if not urls:
        raise InputError(f"{field}: path: {path} holds neither `domains` nor `urls`", "Name a file or a folder of UT1.")
    data = [inputs.read(url, f"{field}: path") for url in urls]
    inputs.check_sha256(data, sha256, f"{field}: sha256: {path}")
    texts = (
        inputs.text(inputs.decompress(part, url, f"{field}: path"), url, f"{field}: path")
        for part, url in zip(data, urls, strict=True)
    )
    entries = (line.strip().lower() for whole in texts for line in whole.splitlines())
    return [entry for entry in entries if entry and not entry.startswith("#")]


def _bare(url: str) -> tuple[str, str]:
    """Host and path of an address, lower-cased, without user, port, `www.`, query and fragment."""
    rest = url.strip().lower().split("://", 1)[-1].lstrip("/")
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, _, path = rest.partition("/")
    host = re.sub(r":\d*$", "", host.rpartition("@")[2]).rstrip(".")
    return host.removeprefix("www."), path.strip("/")


def _hashes(values: list[str]) -> npt.NDArray[np.uint64]:
    import numpy as np
    import xxhash

    return np.fromiter((xxhash.xxh3_64_intdigest(value.encode()) for value in values), np.uint64, len(values))


@functools.cache
def _addresses(path: str, sha256: str) -> npt.NDArray[np.uint64]:
    import numpy as np

    hosts_and_paths = (_bare(line) for line in _lines(path, sha256, "url_block_list"))
    return np.unique(_hashes([f"{host}/{path}".rstrip("/") for host, path in hosts_and_paths]))


def _among(listed: npt.NDArray[np.uint64], candidates: list[str]) -> str:
    """The first candidate in the list, or an empty string."""
    import numpy as np

    wanted = _hashes(candidates)
    places = np.minimum(np.searchsorted(listed, wanted), len(listed) - 1)
    hits = np.flatnonzero(listed[places] == wanted)
    return candidates[hits[0]] if len(hits) else ""


class UrlBlockList(Rule, frozen=True):
    """Reject documents by their address: lists of domains and addresses, and words in it (FineWeb's URL filter).

    A document without an address stays.
    """

    path: File = ""
    """A file of domains and addresses, one a line, or a folder with UT1's `domains` and `urls`; compressed too."""
    sha256: Sha256 = ""
    """SHA-256 of the file as it lies there (of a folder: of its lists in the order of their paths); empty: any."""
    words: tuple[str, ...] = ()
    """Reject an address with one of these between its separators."""
    soft_words: tuple[str, ...] = ()
    """Reject an address with several of these between its separators."""
    min_soft_words: Positive = 2
    """How many different soft words (FineWeb: 2)."""
    subwords: tuple[str, ...] = ()
    """Reject an address that holds one of these anywhere, its separators left out."""

    def apply(self, document: Document) -> str:
        """Reasons, each with what it met: `blocked_domain`, `blocked_url`, `url_word`, `url_soft_words`,
        `url_subword`.
        """
        if not document.url:
            return ""
        address = well_formed(document.url)
        if self.path and len(listed := _addresses(self.path, self.sha256)):
            host, path = _bare(address)
            labels = host.split(".")
            if domain := _among(listed, [".".join(labels[start:]) for start in range(len(labels))]):
                return f"blocked_domain: {domain}"
            steps = path.split("/") if path else []
            if steps and (
                hit := _among(listed, ["/".join([host, *steps[:stop]]) for stop in range(1, len(steps) + 1)])
            ):
                return f"blocked_url: {hit}"
        if not (self.words or self.soft_words or self.subwords):
            return ""
        parts = _SEPARATORS.split(address.lower())
        if hit := next((word for word in self.words if word.lower() in parts), ""):
            return f"url_word: {hit}"
        soft = sorted({word for word in self.soft_words if word.lower() in parts})
        if len(soft) >= self.min_soft_words:
            return f"url_soft_words: {' '.join(soft)}"
        dense = "".join(parts)
        hit = next((word for word in self.subwords if _SEPARATORS.sub("", word.lower()) in dense), "")
        return f"url_subword: {hit}" if hit else ""


class _WordList(NamedTuple):
    words: frozenset[str]  # matched as whole words
    phrases: tuple[tuple[str, re.Pattern[str]], ...]  # more than letters: matched between characters of no word
    parts: tuple[str, ...]  # of scripts without blanks: matched anywhere


@functools.cache
def _bad_words(path: str, sha256: str, allowed: tuple[str, ...]) -> _WordList:
    entries = sorted(set(_lines(path, sha256, "bad_words")) - {word.lower() for word in allowed})
    parts = tuple(entry for entry in entries if _UNSPACED.search(entry))
    spaced = [entry for entry in entries if not _UNSPACED.search(entry)]
    phrases = tuple(
        (entry, re.compile(rf"(?<!\w){re.escape(entry)}(?!\w)")) for entry in spaced if not _WORD.fullmatch(entry)
    )
    return _WordList(frozenset(entry for entry in spaced if _WORD.fullmatch(entry)), phrases, parts)


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


class BadWords(Rule, frozen=True):
    """Reject documents that hold a word of a list (C4, with the lists of LDNOOBW): whole words, in any case.

    Words with Chinese, Japanese or Thai letters are found inside other text too, as in mC4.
    """

    path: File
    """The list: one word or phrase a line; compressed too."""
    sha256: Sha256 = ""
    """SHA-256 of the file as it lies there; empty: any."""
    allowed: tuple[str, ...] = ("sm", "グロ", "女の子", "性")
    """Words of the list to pass over (mC4's exceptions: parts of common words)."""

    def apply(self, document: Document) -> str:
        """Reason: `bad_words: entry`, the first in the alphabet that the document holds."""
        listed = _bad_words(self.path, self.sha256, self.allowed)
        if hits := listed.words & document.derive(_words):
            return f"bad_words: {min(hits)}"
        if not (listed.phrases or listed.parts):
            return ""
        text = document.text.lower()
        for phrase, pattern in listed.phrases:
            if phrase in text and pattern.search(text):
                return f"bad_words: {phrase}"
        if text.isascii():
            return ""
        return next((f"bad_words: {part}" for part in listed.parts if part in text), "")
