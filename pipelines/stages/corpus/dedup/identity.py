"""Ids that several documents have. A corpus itself goes by rows and loses nothing, but whoever looks an id up, in the
table of what was rejected or in evaluation data, cannot tell which is meant: so they are counted, and told.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cluster.core.storage.location import Location
from pipelines.stages.corpus.dedup.duplicates import Index, number_of, read_ranked, repeated, write_records
from pipelines.stages.corpus.dedup.hash_index import Numbers
from pipelines.stages.corpus.documents import keyed_hash

FOLDER = "same_ids"
EXAMPLES = 5
_ID = np.dtype([("hash", "<u8"), ("row", "<u4"), ("source", "u1")])


class SameIds(NamedTuple):
    """How many documents have an id that another one has, and some of these ids."""

    documents: int
    examples: list[str]


def write_ids(place: Location, piece: int, ids: list[str], sources: npt.NDArray[np.uint8]) -> None:
    """Write what tells whether others have the ids of a piece's documents."""
    records = np.zeros(len(ids), dtype=_ID)
    records["hash"] = [keyed_hash(0, "id", id) for id in ids]
    records["row"], records["source"] = np.arange(len(ids)), sources
    write_records(place, FOLDER, piece, records)


def same_ids(place: Location, pieces: list[int], partition: int) -> tuple[int, Numbers]:
    """Of a range of the ids' hashes: how many documents share theirs, and the numbers of the first few of them."""
    records, ranks = read_ranked(Index(place, pieces), None, FOLDER, partition, _ID)
    where = repeated(records["hash"])
    return len(where), np.sort(number_of(ranks[where]))[: 2 * EXAMPLES]
