"""Clusters of duplicates, against a plain union-find and an exhaustive comparison of all pairs."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.specs import CorpusSpec, MinHash
from pipelines.stages.corpus.cleaning import Corpus, ids_file
from pipelines.stages.corpus.dedup import duplicates
from pipelines.stages.corpus.dedup.decisions import Cluster, decide
from pipelines.stages.corpus.dedup.duplicates import (
    Clusters,
    Edges,
    Index,
    components,
    is_known,
    linked,
    partition_edges,
    piece_of,
    row_of,
    write_index,
)
from pipelines.stages.corpus.dedup.hash_index import PARTITIONS
from pipelines.stages.corpus.dedup.minhash import content_key, jaccard, shingles, signature


class Doc(NamedTuple):
    """A document as the index sees it: equal contents and equal bands at the same place are duplicates."""

    source: int
    content: int
    bands: tuple[int, ...]


DOCS = st.lists(
    st.builds(Doc, st.integers(0, 2), st.integers(0, 12), st.tuples(st.integers(0, 12), st.integers(0, 12))),
    max_size=24,
)


def spread(value: object) -> int:
    return xxhash.xxh3_64_intdigest(repr(value).encode())


def write(place: Location, pieces: dict[int, Sequence[Doc]]) -> Index:
    for piece, docs in pieces.items():
        keys = [(spread(doc.content), spread(-1 - doc.content)) for doc in docs]
        bands = [[spread((i, band)) for i, band in enumerate(doc.bands)] for doc in docs]
        write_index(
            place,
            piece,
            np.array(keys, dtype=np.uint64).reshape(-1, 2),
            np.array(bands, dtype=np.uint64).reshape(-1, 2),
            np.array([doc.source for doc in docs], dtype=np.uint8),
        )
    return Index(place, list(pieces))


def find(index: Index, known: Index | None = None, order: Iterable[int] = range(PARTITIONS)) -> Clusters:
    return components(partition_edges(index, partition, known) for partition in order)


def plain(docs: dict[int, Doc]) -> dict[int, tuple[int, bool]]:
    """What is to be found, by a union-find over all pairs: document -> representative, exact. Keys are numbers."""
    order = sorted(docs, key=lambda number: (not number >> 63, docs[number].source, number))
    parent = {number: number for number in docs}

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    exact = set()
    for a, b in itertools.combinations(order, 2):
        same = docs[a].content == docs[b].content
        if same:
            exact.add(b)
        if same or any(x == y for x, y in zip(docs[a].bands, docs[b].bands, strict=True)):
            low, high = sorted((root(a), root(b)), key=order.index)
            parent[high] = low
    found = {number: (root(number), number in exact) for number in sorted(docs)}
    return {number: pair for number, pair in found.items() if pair[0] != number and not number >> 63}


def listed(clusters: Clusters) -> dict[int, tuple[int, bool]]:
    columns = (column.tolist() for column in clusters)
    return {document: (first, exact) for document, first, exact, _ in zip(*columns, strict=True)}


def numbered(pieces: dict[int, Sequence[Doc]], known: bool = False) -> dict[int, Doc]:
    return {known << 63 | piece << 32 | row: doc for piece, docs in pieces.items() for row, doc in enumerate(docs)}


def test_by_hand(tmp_path: Path) -> None:
    a, b = Doc(1, 1, (1, 1)), Doc(1, 2, (2, 1))
    other = Doc(1, 3, (3, 3))
    index = write(Location(tmp_path), {0: [a, other, b], 4096: [b, a._replace(source=0)]})
    found = find(index)
    assert piece_of(found.documents).tolist() == [0, 0, 4096]
    assert row_of(found.documents).tolist() == [0, 2, 0]
    assert set(found.representatives.tolist()) == {4096 << 32 | 1}  # of the first source
    assert found.exact.tolist() == [True, False, True]  # the last: of another member, not of the representative


@settings(max_examples=25)
@given(DOCS, DOCS, st.permutations(range(PARTITIONS)))
def test_components_are_those_of_a_plain_union_find(one: list[Doc], two: list[Doc], order: list[int]) -> None:
    pieces = {7: one, 4096: two}
    with TemporaryDirectory() as folder:
        found = find(write(Location(folder), pieces), order=order)
    docs = numbered(pieces)
    assert listed(found) == plain(docs)
    rank = sorted(docs, key=lambda number: (docs[number].source, number))
    first = {docs[number].content: number for number in reversed(rank)}
    columns = zip(*(column.tolist() for column in found), strict=True)
    assert all(of == (first[docs[document].content] if exact else top) for document, top, exact, of in columns)
    assert (np.diff(found.documents.astype(object)) > 0).all()
    kept = set(docs) - set(found.documents.tolist())
    assert set(found.representatives.tolist()) <= kept
    assert len(docs) == len(kept) + len(found.documents)


@settings(max_examples=15)
@given(DOCS, st.data())
def test_pieces_do_not_show(docs: list[Doc], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(docs)), max_size=3)) | {0, len(docs)})
    pieces = {number: docs[start:end] for number, (start, end) in enumerate(itertools.pairwise(cuts))} or {0: docs}
    position = {number: i for i, number in enumerate(numbered(pieces))}
    with TemporaryDirectory() as one, TemporaryDirectory() as many:
        whole, cut = find(write(Location(one), {0: docs})), find(write(Location(many), pieces))
    assert [position[number] for number in cut.documents.tolist()] == whole.documents.tolist()
    assert [position[number] for number in cut.representatives.tolist()] == whole.representatives.tolist()
    assert cut.exact.tolist() == whole.exact.tolist()


@settings(max_examples=15)
@given(DOCS, DOCS)
def test_an_older_corpus_wins_and_says_what_one_go_would(old: list[Doc], new: list[Doc]) -> None:
    first = [doc._replace(source=0) for doc in old]  # in one go, what wins is the first source
    then = [doc._replace(source=doc.source + 1) for doc in new]
    with TemporaryDirectory() as a, TemporaryDirectory() as b, TemporaryDirectory() as c:
        known = write(Location(a), {5: first})
        found = listed(find(write(Location(b), {5: then}), known))
        together = listed(find(write(Location(c), {5: first, 6: then})))
    assert not is_known(np.array(list(found), dtype=np.uint64)).any()

    def one_go(number: int) -> int:
        return 5 << 32 | number & 0xFFFFFFFF if number >> 63 else 6 << 32 | number & 0xFFFFFFFF

    expected = {number: pair for number, pair in together.items() if number >> 32 == 6}
    assert {one_go(number): (one_go(of), exact) for number, (of, exact) in found.items()} == expected


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.booleans()), max_size=120), st.integers(1, 9))
def test_folding_edges_does_not_show(pairs: list[tuple[int, int, bool]], size: int) -> None:
    ranks = sorted({tuple(sorted(pair[:2])): pair[2] for pair in pairs if pair[0] != pair[1]}.items())
    first, other = (np.array([pair[i] for pair, _ in ranks], dtype=np.uint64) + np.uint64(1 << 63) for i in (0, 1))
    edges = Edges(first, other, np.array([exact for _, exact in ranks], dtype=np.bool_))
    parts = [Edges(*(column[start : start + size] for column in edges)) for start in range(0, len(first), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_FOLD_EDGES", 1)
        folded = components(reversed(parts))
    assert listed(folded) == listed(components([edges]))


def test_long_chains_are_one_cluster() -> None:
    ranks = np.random.default_rng(5).permutation(200_000).astype(np.uint64)
    for chain in (ranks, np.sort(ranks)):
        a, b = chain[:-1] + np.uint64(1 << 63), chain[1:] + np.uint64(1 << 63)
        found = components([Edges(np.minimum(a, b), np.maximum(a, b), np.zeros(len(a), np.bool_))])
        assert len(found.documents) == 199_999
        assert not found.representatives.any()


def index_texts(place: Location, texts: Sequence[str], config: MinHash | None) -> Index:
    bands = [signature(shingles(text, config.shingle_words), config) for text in texts] if config else []
    write_index(
        place,
        0,
        np.array([content_key(text) for text in texts], dtype=np.uint64).reshape(-1, 2),
        np.stack(bands) if bands else np.zeros((len(texts), 0), np.uint64),
        np.zeros(len(texts), np.uint8),
    )
    return Index(place, [0])


@settings(max_examples=25)
@given(st.lists(st.text(alphabet="ab \n\t.", max_size=6), max_size=40))
def test_exact_duplicates_are_those_of_equal_lines_but_for_blanks_at_their_ends(texts: list[str]) -> None:
    groups = defaultdict(list)
    for row, text in enumerate(texts):
        groups["\n".join(line.rstrip() for line in text.split("\n")).rstrip()].append(row)
    expected = {row: (rows[0], True) for rows in groups.values() for row in rows[1:]}
    with TemporaryDirectory() as folder:
        assert listed(find(index_texts(Location(folder), texts, None))) == expected


@pytest.mark.parametrize("drops", [True, False])
def test_a_chain_of_near_duplicates_is_told(tmp_path: Path, drops: bool) -> None:
    """Each text shares nearly all with the next, and the last nothing with the first: one stays, and it is said."""
    draw = random.Random(5)
    words = [f"word{draw.randrange(10**6)}" for _ in range(700)]
    texts = [" ".join(words[6 * number : 6 * number + 100]) for number in range(100)]
    other = [" ".join(draw.sample(words, 100))] * 2
    config = MinHash()
    index = index_texts(Location(tmp_path) / "index", [*texts, *other], config)
    edges = [partition_edges(index, partition) for partition in range(PARTITIONS)]
    clusters = components(edges)
    near = linked(clusters, edges)
    chained = row_of(clusters.representatives) == 0
    assert chained.sum() == 99 and not clusters.exact[chained].any()
    sets = [shingles(text, config.shingle_words) for text in texts]
    bands = [set(enumerate(signature(found, config).tolist())) for found in sets]
    for row, is_near in zip(row_of(clusters.documents)[chained].tolist(), near[chained].tolist(), strict=True):
        assert is_near == bool(bands[0] & bands[row])
        assert is_near or jaccard(sets[0], sets[row]) < 0.9
    assert 1 < near[chained].sum() < 30 and near[~chained].all()

    work = Location(tmp_path) / "work"
    spec = CorpusSpec(near_duplicates="drop" if drops else "keep")
    table = pa.table({"id": [str(n) for n in range(102)], "split": pa.array(range(102), pa.uint64())})
    with index.place.open(ids_file(0), "wb") as sink:
        pq.write_table(table, sink)
    found = decide(Corpus(spec, work, index.place, Location(tmp_path)), clusters, near, None)
    distant = int((~near).sum())
    assert found.distant == (distant if drops else 0)
    assert found.clusters == [Cluster("0", 100, distant), Cluster("100", 2, 0)]


def test_near_duplicates_against_all_pairs_compared(tmp_path: Path) -> None:
    """400 texts, 300 of them edited copies: what is alike is found, and what is not stays apart."""
    draw = random.Random(11)
    vocabulary = [f"word{n}" for n in range(3000)]
    texts = []
    for _ in range(100):
        words = draw.choices(vocabulary, k=draw.randint(80, 400))
        texts.append(" ".join(words))
        for _ in range(3):
            edited = list(words)
            for position in draw.sample(range(len(words)), draw.randint(0, len(words) // 25)):
                edited[position] = draw.choice(vocabulary)
            texts.append(" ".join(edited))
    draw.shuffle(texts)
    config = MinHash()
    sets = [shingles(text, config.shingle_words) for text in texts]
    similar = {(i, j): jaccard(sets[i], sets[j]) for i, j in itertools.combinations(range(len(texts)), 2)}
    index = index_texts(Location(tmp_path), texts, config)
    parts = [partition_edges(index, partition) for partition in range(PARTITIONS)]
    first, other, _ = (np.concatenate(column) for column in zip(*parts, strict=True))
    clusters = listed(components(parts))
    of = {row: clusters.get(row, (row, False))[0] for row in range(len(texts))}

    alike = [pair for pair, level in similar.items() if level >= 0.9]
    joined = sum(of[i] == of[j] for i, j in alike)
    assert len(alike) > 50
    assert joined >= 0.99 * len(alike)  # the S-curve: 0.9996 of pairs at 0.9
    assert all(similar[i, j] > 0.2 for i, j in zip(row_of(first).tolist(), row_of(other).tolist(), strict=True))
    assert len(clusters) >= 150


def test_equal_upper_halves_are_no_equal_content(tmp_path: Path) -> None:
    keys = np.array([[9, 1], [9, 2], [9, 1], [8, 2]], dtype=np.uint64)
    write_index(Location(tmp_path), 0, keys, np.zeros((4, 0), np.uint64), np.zeros(4, np.uint8))
    assert listed(find(Index(Location(tmp_path), [0]))) == {2: (0, True)}


def test_on_an_object_store(tmp_path: Path) -> None:
    pieces = {0: [Doc(0, 1, (1, 2)), Doc(0, 2, (3, 2))], 3: []}
    remote = find(write(Location("memory://test-duplicates"), pieces))
    assert listed(remote) == listed(find(write(Location(tmp_path), pieces))) == {1: (0, False)}


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    place = Location(tmp_path)
    index = write(place, {0: [Doc(0, 1, (1, 2))] * 3})
    with pytest.raises(InputError, match=r"exact/00000001.bin: no such file"):
        find(Index(place, [0, 1]))
    path = tmp_path / "near" / "00000000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"near/00000000.bin: the file is damaged"):
        find(index)


def test_pieces_that_ranks_cannot_hold_are_refused(tmp_path: Path) -> None:
    empty = np.zeros((0, 2), np.uint64), np.zeros((0, 14), np.uint64), np.zeros(0, np.uint8)
    with pytest.raises(InputError, match="at most 2147483648 pieces"):
        write_index(Location(tmp_path), 1 << 31, *empty)
    write_index(Location(tmp_path), (1 << 31) - 1, *empty)
    with pytest.raises(InputError, match=r"Lower corpus\.part_bytes"):
        duplicates.check_size(0, (1 << 24) + 1)
