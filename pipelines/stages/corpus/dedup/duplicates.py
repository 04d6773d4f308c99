"""Clusters of duplicate documents over a whole corpus: an index a piece, edges by ranges of hashes, components.

Documents of equal content are exact duplicates, those that share a band's hash near ones, and clusters are the
connected components over both. As in FineWeb (Penedo et al. 2024) candidates are not verified, and a chain of
near-duplicates is one cluster. Neither the partitions nor their order show in the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.stages.corpus.dedup.hash_index import PARTITIONS, Numbers, partition_of, read_bucket, write_buckets

Flags = npt.NDArray[np.bool_]

# A document's number is piece << 32 | row, and the top bit says that an older corpus holds it. Its rank puts what wins
# first: from the top, 1 bit (0: of the older corpus), 8 of the source, 31 of the piece, 24 of the row.
_TOP = np.uint64(1 << 63)
_SOURCE_SHIFT, _PIECE_SHIFT, _NUMBER_SHIFT = np.uint64(55), np.uint64(24), np.uint64(32)
_MAX_PIECES, _MAX_ROWS = 1 << 31, 1 << 24
_FOLD_EDGES = 1 << 22

_EXACT = np.dtype([("hash", "<u8"), ("low", "<u8"), ("row", "<u4"), ("source", "u1")])
_NEAR = np.dtype([("hash", "<u8"), ("row", "<u4"), ("source", "u1")])


class Index(NamedTuple):
    """A corpus's index: where it lies, and the numbers of its pieces."""

    place: Location
    pieces: Sequence[int]


class Edges(NamedTuple):
    """Pairs of duplicates, by rank, shape (n,) each: a group's first document, another of it, and if it is exact."""

    first: Numbers
    other: Numbers
    exact: Flags


class Clusters(NamedTuple):
    """All documents that are not their cluster's representative, by number, sorted; shape (n,) each.

    A document is `exact` where a document that comes before it, the representative or not, has the same content;
    `originals` holds the first that has, and for the others the representative.
    """

    documents: Numbers
    representatives: Numbers
    exact: Flags
    originals: Numbers


def piece_of(numbers: Numbers) -> Numbers:
    """The piece that holds each document."""
    return (numbers & ~_TOP) >> _NUMBER_SHIFT


def row_of(numbers: Numbers) -> Numbers:
    """The row of each document in its piece."""
    return numbers & np.uint64((1 << 32) - 1)


def is_known(numbers: Numbers) -> Flags:
    """Whether an older corpus holds each document."""
    return (numbers & _TOP) != 0


def number_of(ranks: Numbers) -> Numbers:
    """The documents' numbers from their ranks."""
    piece = (ranks >> _PIECE_SHIFT) & np.uint64(_MAX_PIECES - 1)
    return (~ranks & _TOP) | (piece << _NUMBER_SHIFT) | (ranks & np.uint64(_MAX_ROWS - 1))


def check_size(piece: int, documents: int) -> None:
    """Raises InputError where a rank cannot hold the piece's number or its rows."""
    if piece >= _MAX_PIECES:
        raise InputError(f"piece {piece}: a corpus holds at most {_MAX_PIECES} pieces", "Raise corpus.part_bytes.")
    if documents > _MAX_ROWS:
        raise InputError(
            f"piece {piece}: {documents} documents, and a piece holds at most {_MAX_ROWS}", "Lower corpus.part_bytes."
        )


def write_index(
    place: Location,
    piece: int,
    keys: npt.NDArray[np.uint64],
    bands: npt.NDArray[np.uint64],
    sources: npt.NDArray[np.uint8],
) -> None:
    """Write the index of a piece of n documents.

    `keys` (n, 2): content keys, the upper halves first. `bands` (n, b): hashes of the bands, b = 0 for exact duplicates
    only. `sources` (n,): the source of each document; the lowest wins. Raises InputError for a piece too large.
    """
    check_size(piece, len(keys))
    rows = np.arange(len(keys), dtype=np.uint32)
    exact = np.zeros(len(keys), dtype=_EXACT)
    exact["hash"], exact["low"], exact["row"], exact["source"] = keys[:, 0], keys[:, 1], rows, sources
    write_records(place, "exact", piece, exact)
    near = np.zeros(bands.size, dtype=_NEAR)
    near["hash"] = bands.ravel()
    near["row"] = np.repeat(rows, bands.shape[1])
    near["source"] = np.repeat(sources, bands.shape[1])
    write_records(place, "near", piece, near)


def write_records(place: Location, folder: str, piece: int, records: npt.NDArray[Any]) -> None:
    """Write a piece's records, which have a field `hash`, so that `read_ranked` finds each range of hashes."""
    write_buckets(place, _file(folder, piece), records, partition_of(records["hash"]), PARTITIONS)


def read_ranked(
    index: Index, known: Index | None, folder: str, partition: int, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], Numbers]:
    """The records of a range of hashes from all pieces, and their documents' ranks. Fields: `hash`, `row`, `source`."""
    found, ranks = [np.empty(0, dtype)], [np.empty(0, np.uint64)]
    for corpus in filter(None, (index, known)):
        for piece in corpus.pieces:
            records = read_bucket(corpus.place, _file(folder, piece), partition, dtype)
            found.append(records)
            ranks.append(_rank(records, piece, corpus is known))
    return np.concatenate(found), np.concatenate(ranks)


def partition_edges(index: Index, partition: int, known: Index | None = None) -> Edges:
    """The edges between documents whose content keys or bands' hashes fall into one of the `PARTITIONS` ranges.

    `known` is the index of an older corpus, whose documents win over all of `index`. It must be made with the same
    MinHash. Memory: about 60 bytes a record of the range. Raises InputError where a file is missing or damaged.
    """
    exact, ranks = read_ranked(index, known, "exact", partition, _EXACT)
    exact_first, exact_other = _stars((exact["hash"], exact["low"]), ranks)
    near, ranks = read_ranked(index, known, "near", partition, _NEAR)
    near_first, near_other = _stars((near["hash"],), ranks)
    return Edges(
        np.concatenate([exact_first, near_first]),
        np.concatenate([exact_other, near_other]),
        np.repeat([True, False], [len(exact_first), len(near_first)]),
    )


def components(edges: Iterable[Edges]) -> Clusters:
    """Join the edges of all partitions, in any order, into clusters. Documents of an older corpus are not listed.

    Memory: bounded by the number of documents that have a duplicate, not by that of edges.
    """
    first, other = np.empty(0, np.uint64), np.empty(0, np.uint64)
    exact = [(np.empty(0, np.uint64), np.empty(0, np.uint64))]
    waiting: list[Edges] = []
    size = 0
    for part in edges:
        exact.append((part.other[part.exact], part.first[part.exact]))
        waiting.append(part)
        size += len(part.first)
        if size > max(_FOLD_EDGES, 2 * len(first)):
            first, other = _forest(first, other, waiting)
            waiting, size = [], 0
    first, other = _forest(first, other, waiting)
    new = ~is_known(number_of(other))
    first, other = first[new], other[new]
    documents = number_of(other)
    order = np.argsort(documents)
    copies, firsts = (np.concatenate(ranks) for ranks in zip(*exact, strict=True))
    by_copy = np.argsort(copies)  # a document's content is that of one group: it is a copy once
    is_exact = np.isin(other, copies)
    originals = first.copy()
    originals[is_exact] = firsts[by_copy][np.searchsorted(copies[by_copy], other[is_exact])]
    return Clusters(documents[order], number_of(first)[order], is_exact[order], number_of(originals)[order])


def linked(clusters: Clusters, edges: Iterable[Edges]) -> Flags:
    """Whether each document of `clusters` is like its representative itself, and not only like others that are.

    `edges` are those that the clusters were made of. A representative comes first wherever it is like another.
    """
    found = np.zeros(len(clusters.documents), np.bool_)
    for part in edges:
        documents, firsts = number_of(part.other), number_of(part.first)
        new = ~is_known(documents)
        place = np.searchsorted(clusters.documents, documents[new])
        found[place[clusters.representatives[place] == firsts[new]]] = True
    return found


def repeated(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Where the values lie that occur more than once, sorted by value."""
    order = np.argsort(values)
    same = np.diff(values[order]) == 0
    return order[np.append(same, False) | np.insert(same, 0, False)] if len(values) else order


def _file(folder: str, piece: int) -> str:
    return f"{folder}/{piece:08d}.bin"


def _rank(records: npt.NDArray[Any], piece: int, known: bool) -> Numbers:
    ranks = records["source"].astype(np.uint64) << _SOURCE_SHIFT
    ranks |= records["row"]
    ranks |= np.uint64(piece << int(_PIECE_SHIFT) | (0 if known else int(_TOP)))
    return ranks


def _stars(keys: tuple[npt.NDArray[np.uint64], ...], ranks: Numbers) -> tuple[Numbers, Numbers]:
    """For every group of equal keys: its first document, and each of the others."""
    where = repeated(keys[0])
    if not len(where):
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    keys, ranks = tuple(key[where] for key in keys), ranks[where]
    order = np.lexsort((ranks, *reversed(keys)))
    keys, ranks = tuple(key[order] for key in keys), ranks[order]
    begins = np.insert(np.any([np.diff(key) != 0 for key in keys], axis=0), 0, True)
    first = ranks[begins][np.cumsum(begins) - 1]
    others = first != ranks  # a document can be in a group twice
    return first[others], ranks[others]


def _forest(first: Numbers, other: Numbers, edges: list[Edges]) -> tuple[Numbers, Numbers]:
    """A star for each component, around its document of the lowest rank."""
    first = np.concatenate([first, *(part.first for part in edges)])
    other = np.concatenate([other, *(part.other for part in edges)])
    documents = np.unique(np.concatenate([first, other]))
    roots = _roots(np.searchsorted(documents, first), np.searchsorted(documents, other), len(documents))
    others = roots != np.arange(len(documents))
    return documents[roots[others]], documents[others]


def _roots(a: npt.NDArray[np.intp], b: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """The lowest node of every node's component: roots hook onto lower ones, then paths halve (Shiloach & Vishkin)."""
    roots = np.arange(count)
    while True:
        a, b = roots[a], roots[b]
        apart = a != b
        if not apart.any():
            return roots
        a, b = a[apart], b[apart]
        np.minimum.at(roots, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(parents := roots[roots], roots):
            roots = parents
