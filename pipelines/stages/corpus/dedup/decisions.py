"""From edges between duplicates to what happens to each document: dropped for another, or in which split it goes.

A cluster's representative is the document of the first source, and there the first in the corpus's order. Exact
duplicates go, near-duplicates stay or go by the spec; what stays follows its representative into train or held-out, so
that no near-duplicate of a training document is ever held out. The split is a hash of the representative's id: it
stays the same when the corpus grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.core.storage.location import Location
from pipelines.stages.corpus.cleaning import Corpus, ids_file
from pipelines.stages.corpus.dedup.duplicates import Clusters, Flags, is_known, piece_of, row_of
from pipelines.stages.corpus.dedup.hash_index import Numbers

EXACT, NEAR = "exact_dedup", "near_dedup"
LARGEST_CLUSTERS = 20
DECISION_SCHEMA = pa.schema(
    [("row", pa.int64()), ("drop", pa.bool_()), ("step", pa.string()), ("of", pa.string()), ("key", pa.uint64())]
)


@dataclass(frozen=True)
class Cluster:
    """A representative, how many documents there are with those like it, and how many of them are like others only."""

    id: str
    size: int
    distant: int


@dataclass(frozen=True)
class Duplicates:
    """The largest clusters, and how many documents go for one that they are not like: a chain leads to it."""

    clusters: list[Cluster]
    distant: int


@dataclass(frozen=True)
class Decision:
    """What is decided of a document that is like another."""

    drop: bool
    step: str
    of: str  # the id of the document that stays
    key: int  # the representative's split key


def decide(corpus: Corpus, clusters: Clusters, linked: Flags, known: Location | None) -> Duplicates:
    """Write `decisions/PIECE.parquet` for every piece with duplicates in it.

    `linked`: which documents are like their representative themselves. `known`: the index of an older corpus. What is
    like one of its documents goes, even where near-duplicates stay.
    """
    drops_near = corpus.spec.near_duplicates == "drop"
    # Who stays: the representative, or where near-duplicates stay too, the document that it is a copy of.
    kept = clusters.representatives if drops_near else clusters.originals
    found = look_up(corpus.index, known, np.concatenate([kept, clusters.representatives]))
    pieces = piece_of(clusters.documents)  # sorted, as the documents are
    for piece in np.unique(pieces):
        where = slice(np.searchsorted(pieces, piece), np.searchsorted(pieces, piece, side="right"))
        of, exact = clusters.representatives[where], clusters.exact[where]
        table = pa.table(
            {
                "row": row_of(clusters.documents[where]).astype(np.int64),
                "drop": exact | is_known(of) | drops_near,
                "step": [EXACT if same else NEAR for same in exact],
                "of": [found[number][0] for number in kept[where].tolist()],
                "key": np.array([found[number][1] for number in of.tolist()], dtype=np.uint64),
            },
            schema=DECISION_SCHEMA,
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        corpus.work.write_bytes(f"decisions/{int(piece):08d}.parquet", sink.getvalue().to_pybytes())
    numbers, cluster, counts = np.unique(clusters.representatives, return_inverse=True, return_counts=True)
    distant = np.bincount(cluster, weights=~linked, minlength=len(numbers)).astype(np.int64)
    largest = np.lexsort((numbers, -counts))[:LARGEST_CLUSTERS]
    goes = ~clusters.exact & (drops_near | is_known(clusters.representatives))
    return Duplicates(
        [Cluster(found[int(numbers[i])][0], int(counts[i]) + 1, int(distant[i])) for i in largest],
        int((goes & ~linked).sum()),
    )


def look_up(index: Location, known: Location | None, numbers: Numbers) -> dict[int, tuple[str, int]]:
    """Ids and split keys of documents by their numbers; reads a piece at a time."""
    found: dict[int, tuple[str, int]] = {}
    numbers = np.unique(numbers)
    places = numbers >> np.uint64(32)  # the piece, and whether the older corpus holds it
    for place in np.unique(places):
        members = numbers[np.searchsorted(places, place) : np.searchsorted(places, place, side="right")]
        where = known if known is not None and is_known(members[:1])[0] else index
        with where.open(ids_file(int(piece_of(members[:1])[0]))) as file:
            table = pq.ParquetFile(file).read().take(row_of(members))
        rows = zip(members.tolist(), table.column("id").to_pylist(), table.column("split").to_pylist(), strict=True)
        found |= {number: (id, split) for number, id, split in rows}
    return found


def load(work: Location, piece: int) -> dict[int, Decision]:
    """The decisions of a piece by row; rows without one stay, by their own key."""
    name = f"decisions/{piece:08d}.parquet"
    if not work.exists(name):
        return {}
    with work.open(name) as file:
        rows = pq.ParquetFile(file).read().to_pylist()
    return {row.pop("row"): Decision(**row) for row in rows}


def held_out(keys: npt.NDArray[np.uint64], fraction: float) -> npt.NDArray[np.bool_]:
    """Whether documents of these split keys are held out."""
    return keys < np.uint64(int(fraction * 2**64))
