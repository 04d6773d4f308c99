"""Lines (or paragraphs) that many documents share: boilerplate, of which the first occurrence stays.

After CCNet (Wenzek et al. 2020), which hashes normalised paragraphs; here a line is normalised by lower case and white
space alone, so that lines that differ in their numbers are told apart. An index a piece, then drops by ranges of
hashes, then each piece reads what it loses. Documents that go as duplicates do not count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from cluster.core.storage.location import Location
from pipelines.stages.corpus.dedup.duplicates import (
    Index,
    check_size,
    is_known,
    number_of,
    piece_of,
    read_ranked,
    repeated,
    write_records,
)
from pipelines.stages.corpus.dedup.hash_index import PARTITIONS, Numbers, read_bucket, write_buckets
from pipelines.stages.corpus.dedup.spec import LineDedup

_LINE = np.dtype([("hash", "<u8"), ("row", "<u4"), ("line", "<u4"), ("source", "u1")])
_DROP = np.dtype([("piece", "<u4"), ("row", "<u4"), ("line", "<u4")])
_DROP_BUCKETS = 4096
_SEPARATORS = {"line": re.compile(r"(\n)"), "paragraph": re.compile(r"(\n(?:[^\S\n]*\n)+)")}


def line_hashes(text: str, config: LineDedup) -> npt.NDArray[np.uint64]:
    """The hash of every line (or paragraph), shape (lines,); 0 where it is too short to be dropped."""
    lines = (" ".join(line.split()) for line in _SEPARATORS[config.unit].split(text.lower())[::2])
    hashes = [
        xxhash.xxh3_64_intdigest(line.encode("utf-8", "surrogatepass")) if len(line) >= config.min_characters else 0
        for line in lines
    ]
    return np.array(hashes, dtype=np.uint64)


def write_line_index(
    place: Location, piece: int, hashes: Sequence[npt.NDArray[np.uint64]], sources: npt.NDArray[np.uint8]
) -> None:
    """Write the index of a piece of n documents: the `line_hashes` of each, and their sources, shape (n,).

    Raises InputError for a piece too large.
    """
    check_size(piece, len(hashes))
    lengths = [len(lines) for lines in hashes]
    records = np.zeros(sum(lengths), dtype=_LINE)
    if lengths:
        records["hash"] = np.concatenate(hashes)
        records["row"] = np.repeat(np.arange(len(hashes)), lengths)
        records["line"] = np.concatenate([np.arange(length) for length in lengths])
        records["source"] = np.repeat(sources, lengths)
    write_records(place, "index", piece, records[records["hash"] != 0])


def write_drops(index: Index, partition: int, dropped: Numbers, config: LineDedup, known: Index | None = None) -> int:
    """Find the repeated lines of one of the `PARTITIONS` ranges of hashes, and write where they are to go.

    `dropped`: sorted numbers of the documents that do not count, as in `Clusters`. A line of an older corpus, `known`,
    wins over all of `index`. Returns the number of lines to drop. Raises InputError where a file is missing or damaged.
    """
    records, ranks = read_ranked(index, known, "index", partition, _LINE)
    counts = ~np.isin(number_of(ranks), dropped)
    records, ranks = records[counts], ranks[counts]
    where = repeated(records["hash"])
    records, ranks = records[where], ranks[where]
    order = np.lexsort((records["line"], ranks, records["hash"]))
    records, ranks = records[order], ranks[order]
    if len(records):
        begins = np.insert(np.diff(records["hash"]) != 0, 0, True)
        another = begins | np.insert(np.diff(ranks) != 0, 0, True)
        documents = np.add.reduceat(another, np.flatnonzero(begins), dtype=np.int64)
        goes = (documents > config.max_occurrences)[np.cumsum(begins) - 1] & ~begins & ~is_known(number_of(ranks))
        records, ranks = records[goes], ranks[goes]
    drops = np.zeros(len(records), dtype=_DROP)
    drops["piece"], drops["row"], drops["line"] = piece_of(number_of(ranks)), records["row"], records["line"]
    write_buckets(index.place, _drop_file(partition), drops, _bucket(drops["piece"]), _DROP_BUCKETS)
    return len(drops)


def lines_to_drop(place: Location, piece: int) -> dict[int, list[int]]:
    """What `write_drops` found in a piece, all partitions: numbers of lines, ascending, by the document's row."""
    bucket = int(_bucket(np.array([piece], dtype=np.uint32))[0])
    drops = np.concatenate([read_bucket(place, _drop_file(part), bucket, _DROP) for part in range(PARTITIONS)])
    drops = drops[drops["piece"] == piece]
    found: dict[int, list[int]] = defaultdict(list)
    for row, line in drops[["row", "line"]][np.lexsort((drops["line"], drops["row"]))].tolist():
        found[row].append(line)
    return dict(found)


def drop_lines(text: str, numbers: Iterable[int], config: LineDedup) -> str:
    """The text without the lines (or paragraphs) of these numbers, each with the separator before it."""
    parts = ["\n", *_SEPARATORS[config.unit].split(text)]
    drop = set(numbers)
    kept = [part for number in range(len(parts) // 2) if number not in drop for part in parts[2 * number :][:2]]
    return "".join(kept[1:])


def _drop_file(partition: int) -> str:
    return f"drops/{partition:02d}.bin"


def _bucket(pieces: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Spreads pieces over the buckets: their numbers have gaps of powers of two (Fibonacci hashing, Knuth)."""
    return (pieces * np.uint32(0x9E3779B1)) >> np.uint32(20)
