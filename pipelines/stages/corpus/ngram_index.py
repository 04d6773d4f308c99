"""An index of a corpus's training documents by n-grams of words: which documents may share a run of words with a text.

Of every document's hashed n-grams those are kept that winnowing picks (Schleimer, Wilkerson and Aiken 2003): of each
window of them the least, so that every shared run of `FOUND_WORDS` is found by a third of the n-grams. They lie sorted
on disk, 12 bytes each, and are memory-mapped; building takes the memory of one part of `PARTITIONS`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.core.errors import InputError
from cluster.core.identity.digests import cache_root
from cluster.core.storage.artifact import Artifact
from pipelines.stages.corpus.dedup.hash_index import PARTITIONS, partition_of
from pipelines.stages.corpus.rules.evaluation_ngrams import word_hashes, words
from pipelines.stages.corpus.rules.ngrams import rolling_hashes
from pipelines.stages.corpus.rules.unicode import well_formed
from pipelines.stages.corpus.summary import rows

NGRAM_WORDS = 8
WINDOW = 5
FOUND_WORDS = NGRAM_WORDS + WINDOW - 1
BUFFERED = 1 << 20  # n-grams in memory before they are written, 12 bytes each
MOST_DOCUMENTS = 1000  # of one n-gram that are looked at: a licence's text stands in all of them
PART = "train"
HASHES, DOCUMENTS = "hashes.u64", "documents.u32"
RECORD = np.dtype([("hash", "<u8"), ("document", "<u4")])

Array = npt.NDArray[Any]


def winnowed(text: str) -> npt.NDArray[np.uint64]:
    """The hashes of a text's n-grams that stand for it, each once; none of a text shorter than an n-gram."""
    hashes = next((found for _, found in rolling_hashes(word_hashes(words(well_formed(text))), (NGRAM_WORDS,))), None)
    if hashes is None:
        return np.empty(0, np.uint64)
    if len(hashes) <= WINDOW:
        return np.unique(hashes.min(keepdims=True))
    return np.unique(np.lib.stride_tricks.sliding_window_view(hashes, WINDOW).min(axis=1))


class NgramIndex:
    """The index in a folder, memory-mapped. Documents are numbered in the order of the corpus's own files."""

    def __init__(self, folder: Path) -> None:
        self.hashes = _mapped(folder / HASHES, np.dtype("<u8"))
        self.documents = _mapped(folder / DOCUMENTS, np.dtype("<u4"))

    @classmethod
    def of(cls, corpus: Artifact) -> NgramIndex:
        """The index of a corpus: built once, and kept in the cache of this machine (TRUNKLINE_CACHE)."""
        folder = cache_root() / "ngrams" / f"{corpus.fingerprint}-{NGRAM_WORDS}-{WINDOW}"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
            try:
                _build(corpus, partial)
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process has built it meanwhile
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return cls(folder)

    def candidates(self, text: str) -> dict[int, int]:
        """The numbers of the documents that share n-grams with a text, and how many: `MOST_DOCUMENTS` of an n-gram."""
        wanted = winnowed(text)
        firsts, lasts = (np.searchsorted(self.hashes, wanted, side) for side in ("left", "right"))
        found = [self.documents[a : min(b, a + MOST_DOCUMENTS)] for a, b in zip(firsts, lasts, strict=True) if b > a]
        if not found:
            return {}
        numbers, counts = np.unique(np.concatenate(found), return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def documents(corpus: Artifact, numbers: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The documents of these numbers with all that the corpus knows of them, in ascending order."""
    import pyarrow.parquet as pq

    left, first = sorted(numbers), 0
    for name in corpus.location.names(PART):
        with corpus.location.open(f"{PART}/{name}") as opened:
            file = pq.ParquetFile(opened)
            for group in range(file.num_row_groups):
                behind = first + file.metadata.row_group(group).num_rows
                inside = [number for number in left if first <= number < behind]
                if inside:
                    table = file.read_row_group(group)
                    for number in inside:
                        yield number, table.slice(number - first, 1).to_pylist()[0]
                first = behind


def _build(corpus: Artifact, folder: Path) -> None:
    parts = [folder / f"part-{number}" for number in range(PARTITIONS)]
    for part in parts:
        part.touch()
    buffered: list[Array] = []
    size = 0
    for number, row in enumerate(rows(corpus, PART, ["text"])):
        found = winnowed(row["text"])
        record = np.empty(len(found), RECORD)
        record["hash"], record["document"] = found, number
        buffered.append(record)
        size += len(found)
        if size > BUFFERED:
            _append(parts, np.concatenate(buffered))
            buffered, size = [], 0
    if buffered:
        _append(parts, np.concatenate(buffered))
    with (folder / HASHES).open("wb") as hashes, (folder / DOCUMENTS).open("wb") as numbers:
        for part in parts:  # of ascending hashes
            records = np.fromfile(part, RECORD)
            records = records[np.argsort(records["hash"], kind="stable")]
            hashes.write(records["hash"].tobytes())
            numbers.write(records["document"].tobytes())
            part.unlink()


def _append(parts: list[Path], records: Array) -> None:
    partitions = partition_of(records["hash"])
    order = np.argsort(partitions, kind="stable")
    bounds = np.searchsorted(partitions[order], np.arange(len(parts) + 1))
    for number, part in enumerate(parts):
        with part.open("ab") as file:
            file.write(records[order[bounds[number] : bounds[number + 1]]].tobytes())


def _mapped(path: Path, dtype: np.dtype[Any]) -> Array:
    try:
        if not os.path.getsize(path):
            return np.empty(0, dtype)
        return np.memmap(path, dtype, "r")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}", f"Remove {path.parent}: it is built again.") from None
