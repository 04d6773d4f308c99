"""Repeated lines, by hand and against a plain count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.specs import LineDedup
from pipelines.stages.corpus.dedup.duplicates import Index
from pipelines.stages.corpus.dedup.hash_index import PARTITIONS
from pipelines.stages.corpus.dedup.line_dedup import (
    _bucket,
    drop_lines,
    line_hashes,
    lines_to_drop,
    write_drops,
    write_line_index,
)

ANY = LineDedup(min_characters=1)
PARAGRAPHS = LineDedup(unit="paragraph", min_characters=1)
Source = tuple[int, str]  # a document: its source, its text


def write(place: Location, pieces: dict[int, Sequence[Source]], config: LineDedup) -> Index:
    for piece, docs in pieces.items():
        hashes = [line_hashes(text, config) for _, text in docs]
        write_line_index(place, piece, hashes, np.array([source for source, _ in docs], dtype=np.uint8))
    return Index(place, list(pieces))


def find(
    index: Index, config: LineDedup, dropped: Sequence[int] = (), known: Index | None = None
) -> dict[int, dict[int, list[int]]]:
    numbers = np.array(sorted(dropped), dtype=np.uint64)
    count = sum(write_drops(index, partition, numbers, config, known) for partition in range(PARTITIONS))
    found = {piece: lines_to_drop(index.place, piece) for piece in index.pieces}
    assert count == sum(len(lines) for rows in found.values() for lines in rows.values())
    return {piece: rows for piece, rows in found.items() if rows}


def test_the_first_occurrence_stays(tmp_path: Path) -> None:
    pieces = {
        0: [(1, "Subscribe  now!\none"), (1, "two\nthree\n")],
        4096: [(1, "four\nSUBSCRIBE now! \nfive\nsubscribe now!"), (0, "subscribe now!")],
    }
    index = write(Location(tmp_path), pieces, ANY)
    assert find(index, ANY) == {0: {0: [0]}, 4096: {0: [1, 3]}}  # the first source's stays


def test_lines_of_one_document_alone_stay(tmp_path: Path) -> None:
    index = write(Location(tmp_path), {0: [(0, "la la la\nla la la\nend"), (0, "another")]}, ANY)
    assert find(index, ANY) == {}


def test_short_lines_stay(tmp_path: Path) -> None:
    config = LineDedup(min_characters=5)
    index = write(Location(tmp_path), {0: [(0, "}\n  a    b  \nabcde"), (0, "}\n  a    b  \nabcde")]}, config)
    assert find(index, config) == {0: {1: [2]}}


def test_more_documents_than_may_hold_a_line(tmp_path: Path) -> None:
    config = LineDedup(min_characters=1, max_occurrences=2)
    index = write(Location(tmp_path), {0: [(0, "a\nb\nb"), (0, "a\nb"), (0, "a")]}, config)
    assert find(index, config) == {0: {1: [0], 2: [0]}}


def test_dropped_documents_do_not_count(tmp_path: Path) -> None:
    index = write(Location(tmp_path), {0: [(0, "a\nb"), (0, "b")], 2: [(0, "a"), (0, "a")]}, ANY)
    assert find(index, ANY, dropped=[0]) == {2: {1: [0]}}


def test_lines_of_an_older_corpus_win(tmp_path: Path) -> None:
    known = write(Location(tmp_path / "old"), {0: [(9, "a"), (9, "b"), (9, "a")]}, ANY)
    index = write(Location(tmp_path / "new"), {0: [(0, "a\nc"), (0, "b\nc")]}, ANY)
    assert find(index, ANY, known=known) == {0: {0: [0], 1: [0, 1]}}
    assert find(index, ANY, dropped=[1 << 63 | 1], known=known) == {0: {0: [0], 1: [1]}}


@settings(max_examples=12)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.sampled_from("abcdef"), max_size=5)), max_size=12),
    st.integers(1, 3),
    st.sets(st.integers(0, 11)),
    st.integers(0, 12),
)
def test_as_a_plain_count_says(docs: list[tuple[int, list[str]]], most: int, dropped: set[int], cut: int) -> None:
    places: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for number, (source, lines) in enumerate(docs):
        for position, line in enumerate(lines if number not in dropped else []):
            places[line].append((source, number, position))
    expected: dict[int, list[int]] = defaultdict(list)
    for found in places.values():
        if len({number for _, number, _ in found}) > most:
            for _, number, position in sorted(found)[1:]:
                expected[number].append(position)

    texts = [(source, "\n".join(lines)) for source, lines in docs]
    config = LineDedup(min_characters=1, max_occurrences=most)
    split = min(cut, len(docs))
    numbers = [n if n < split else 1 << 32 | n - split for n in dropped]
    with TemporaryDirectory() as folder:
        drops = find(write(Location(folder), {0: texts[:split], 1: texts[split:]}, config), config, numbers)
    result = {row + piece * split: lines for piece, rows in drops.items() for row, lines in rows.items()}
    assert result == {number: sorted(lines) for number, lines in expected.items()}


@pytest.mark.parametrize(
    ("text", "numbers", "config", "left"),
    [
        ("a\nb\nc", [1], ANY, "a\nc"),
        ("a\nb\nc", [0], ANY, "b\nc"),
        ("a\nb\nc\n", [2], ANY, "a\nb\n"),
        ("a\r\nb\r\n", [0], ANY, "b\r\n"),
        ("a", [0], ANY, ""),
        ("a\nb\n\n\nc\n \t\nd\n", [1], PARAGRAPHS, "a\nb\n \t\nd\n"),
        ("a\n\nb\r\n\r\nc", [0], PARAGRAPHS, "b\r\n\r\nc"),
        ("a\n\nb\r\n\r\nc", [0, 2], PARAGRAPHS, "b\r"),
    ],
)
def test_drop_lines(text: str, numbers: list[int], config: LineDedup, left: str) -> None:
    assert drop_lines(text, numbers, config) == left


@given(st.text(alphabet="ab \n\r\x85\u2028"), st.sampled_from([ANY, PARAGRAPHS]))
def test_every_number_of_a_line_means_the_same_line(text: str, config: LineDedup) -> None:
    hashes = line_hashes(text, config)
    assert drop_lines(text, [], config) == text
    assert not drop_lines(text, range(len(hashes)), config)
    for number in range(len(hashes)):
        others = [other for other in range(len(hashes)) if other != number]
        assert line_hashes(drop_lines(text, others, config), config).tolist() == [hashes[number]]


def test_paragraphs_are_compared_whole() -> None:
    one, two = (line_hashes(text, PARAGRAPHS).tolist() for text in ("A\nb\n\nc\n", "a b\n  \n\n\nd"))
    assert len(one) == len(two) == 2
    assert one[0] == two[0] and one[1] != two[1]


def test_pieces_that_share_a_bucket_are_told_apart(tmp_path: Path) -> None:
    pieces = np.arange(100_000, dtype=np.uint32)
    one, two = pieces[_bucket(pieces) == _bucket(pieces[:1])][:2].tolist()
    index = write(Location(tmp_path), {one: [(0, "a")], two: [(0, "b"), (0, "a")]}, ANY)
    assert find(index, ANY) == {two: {1: [0]}}


def test_a_missing_partition_is_named(tmp_path: Path) -> None:
    index = write(Location(tmp_path), {0: [(0, "a")]}, ANY)
    write_drops(index, 0, np.empty(0, np.uint64), ANY)
    with pytest.raises(InputError, match=r"drops/01.bin: no such file"):
        lines_to_drop(index.place, 0)
