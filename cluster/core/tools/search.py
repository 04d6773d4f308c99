"""Search over the documents of a corpus: BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework") by
SQLite's full-text index, one file that all processes read.

Words are runs of letters and digits. Of scripts that write no blanks (Chinese, Japanese) each sign is a word, and a
query asks for neighbours of two.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from cluster.core.storage.artifact import Artifact

INDEX_FILE = "search.sqlite"
SPLIT = "train"
WORD = re.compile(r"[⺀-鿿가-힯豈-﫿]+|[^\W_⺀-鿿가-힯豈-﫿]+")
SIGN = re.compile(r"[⺀-鿿가-힯豈-﫿]")
MAX_WORDS = 32  # of a query
PASSAGE_CHARACTERS = 300  # of a document, around the first word that was asked for


def write_index(path: Path, documents: Iterable[tuple[str, str]]) -> int:
    """An index of documents (id, text) as a file; how many there are."""
    with closing(sqlite3.connect(path)) as index, index:
        index.execute("CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT, text TEXT)")
        index.execute("CREATE VIRTUAL TABLE words USING fts5(text, content='')")
        count = 0
        for count, (name, text) in enumerate(documents, 1):
            index.execute("INSERT INTO documents VALUES (?, ?, ?)", (count, name, text))
            index.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (count, " ".join(_words(text))))
        index.execute("INSERT INTO words (words) VALUES ('optimize')")
    return count


def documents(corpus: Artifact) -> Iterator[tuple[str, str]]:
    """The documents (id, text) of a corpus that training sees."""
    import pyarrow.parquet as pq

    for name in corpus.location.names(SPLIT):
        if name.endswith(".parquet"):
            with corpus.location.open(f"{SPLIT}/{name}") as file:
                for batch in pq.ParquetFile(file).iter_batches(columns=["id", "text"]):
                    yield from ((row["id"], row["text"]) for row in batch.to_pylist())


class Search:
    """A finished index. What it finds does not depend on who asks, or on what was asked before."""

    def __init__(self, path: Path) -> None:
        self._index = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)

    def __call__(self, query: str, count: int) -> str:
        """The best documents for a query, a numbered passage of each. Raises ValueError for a query without words."""
        if not isinstance(query, str):
            raise ValueError("a query is text")
        asked = _asked(query)
        if not asked:
            raise ValueError("a query is made of words")
        rows = self._index.execute(
            "SELECT documents.id, documents.text FROM words JOIN documents ON documents.number = words.rowid "
            "WHERE words MATCH ? ORDER BY bm25(words), documents.number LIMIT ?",
            (" OR ".join(f'"{each}"' for each in asked), count),
        ).fetchall()
        if not rows:
            return "nothing found"
        return "\n".join(f"{place}. {name}: {passage(text, asked)}" for place, (name, text) in enumerate(rows, 1))


def passage(text: str, asked: list[str]) -> str:
    """What stands around the first place of a document that has something of what was asked, in one line."""
    folded = _folded(text)
    places = [place for each in asked if (place := folded.find(each.replace(" ", ""))) >= 0]
    begin = max(0, min(places, default=0) - PASSAGE_CHARACTERS // 3)
    part = " ".join(text[begin : begin + PASSAGE_CHARACTERS].split())
    return f"{'... ' if begin else ''}{part}{' ...' if begin + PASSAGE_CHARACTERS < len(text) else ''}"


def _folded(text: str) -> str:
    """Without capitals, and as long as before."""
    return "".join(low if len(low := each.lower()) == 1 else each for each in text)


def _words(text: str) -> Iterator[str]:
    for run in WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        if SIGN.match(run):
            yield from run
        else:
            yield run


def _asked(query: str) -> list[str]:
    """Words and pairs of signs, each once, in their order."""
    found: list[str] = []
    for run in WORD.findall(unicodedata.normalize("NFKC", query).lower()):
        if SIGN.match(run) and len(run) > 1:
            found += [" ".join(run[place : place + 2]) for place in range(len(run) - 1)]
        else:
            found.append(run)
    return list(dict.fromkeys(found))[:MAX_WORDS]
