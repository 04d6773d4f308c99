"""The rounds of de-duplication: edges by key ranges in tasks, clusters here, repeated lines in tasks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.specs import spec as specs
from cluster.core.storage.location import Location
from pipelines.specs import CorpusSpec
from pipelines.stages.corpus.cleaning import LINES, Corpus
from pipelines.stages.corpus.dedup.decisions import Duplicates, decide, look_up
from pipelines.stages.corpus.dedup.duplicates import (
    Clusters,
    Edges,
    Index,
    components,
    is_known,
    linked,
    partition_edges,
)
from pipelines.stages.corpus.dedup.hash_index import PARTITIONS, Numbers
from pipelines.stages.corpus.dedup.identity import EXAMPLES, SameIds, same_ids
from pipelines.stages.corpus.dedup.line_dedup import write_drops
from pipelines.stages.ordered import ordered_map


def known_index(ctx: Context[CorpusSpec]) -> Index | None:
    """The index of the older corpus that is the input `known`, if there is one.

    Raises InputError where it was not kept, or was made in another way than this corpus's.
    """
    known = ctx.inputs.get("known")
    if known is None:
        return None
    place = known.location / "index"
    pieces = [int(name.partition(".")[0]) for name in place.names("exact")]
    if not pieces:
        raise InputError(f"{known.record.ref} has no index to compare with", "Build it with `keep_index: true`.")
    if known.spec["minhash"] != specs.fields(ctx.spec)["minhash"]:
        raise InputError(
            f"corpus.minhash: {known.record.ref} was made with {known.spec['minhash']}", "Use the same settings."
        )
    return Index(place, pieces)


class Found(NamedTuple):
    """What is decided of duplicates, and the ids that several documents have."""

    duplicates: Duplicates
    same_ids: SameIds


def deduplicate(ctx: Context[CorpusSpec], corpus: Corpus, pieces: list[int], known: Index | None) -> Found:
    """Find duplicates, decide about each, and find repeated lines where that is asked for."""
    _forget_unused(corpus.index, pieces)
    index = Index(corpus.index, pieces)
    shared: list[tuple[int, Numbers]] = []
    clusters = components(_edges(ctx, corpus, index, known, shared))
    duplicates = decide(corpus, clusters, linked(clusters, _found_edges(corpus)), known.place if known else None)
    if ctx.spec.line_dedup:
        _drop_lines(ctx, corpus, pieces, _dropped(ctx.spec, clusters))
    numbers = np.concatenate([numbers for _, numbers in shared])
    ids = sorted({id for id, _ in look_up(corpus.index, None, numbers).values()})
    return Found(duplicates, SameIds(sum(count for count, _ in shared), ids[:EXAMPLES]))


def _edges(
    ctx: Context[CorpusSpec], corpus: Corpus, index: Index, known: Index | None, shared: list[tuple[int, Numbers]]
) -> Iterator[Edges]:
    """The edges of all ranges; what is found of ids that documents share is added to `shared`."""

    def find(task: dict[str, Any]) -> dict[str, Any]:
        name = _edges_file(task["partition"])
        if not corpus.work.exists(name):
            buffer = io.BytesIO()
            np.savez(buffer, **partition_edges(index, task["partition"], known)._asdict())
            corpus.work.write_bytes(name, buffer.getvalue())
        return {"name": name, "same_ids": same_ids(corpus.work, list(index.pieces), task["partition"])}

    tasks = [{"partition": partition} for partition in range(PARTITIONS)]
    for number, done in enumerate(ordered_map(find, tasks, ctx.scaling.data_workers), 1):
        ctx.progress(number, PARTITIONS, "key ranges")
        shared.append(done["same_ids"])
        yield _read_edges(corpus, done["name"])


def _found_edges(corpus: Corpus) -> Iterator[Edges]:
    """The edges once more."""
    return (_read_edges(corpus, _edges_file(partition)) for partition in range(PARTITIONS))


def _read_edges(corpus: Corpus, name: str) -> Edges:
    with np.load(io.BytesIO(corpus.work.read_bytes(name))) as found:
        return Edges(found["first"], found["other"], found["exact"])


def _edges_file(partition: int) -> str:
    return f"edges/{partition:02d}.npz"


def _dropped(spec: CorpusSpec, clusters: Clusters) -> Numbers:
    """The sorted numbers of the documents that go."""
    goes = clusters.exact | is_known(clusters.representatives) | (spec.near_duplicates == "drop")
    return clusters.documents[goes]


def _drop_lines(ctx: Context[CorpusSpec], corpus: Corpus, pieces: list[int], dropped: Numbers) -> None:
    config = ctx.spec.line_dedup
    assert config is not None
    lines = Index(corpus.work / LINES, pieces)
    corpus.work.write_bytes("dropped.u64", dropped.tobytes())

    def find(task: dict[str, Any]) -> dict[str, Any]:
        gone = np.frombuffer(corpus.work.read_bytes("dropped.u64"), dtype=np.uint64)
        return {"lines": write_drops(lines, task["partition"], gone, config)}

    tasks = [{"partition": partition} for partition in range(PARTITIONS)]
    for number, _ in enumerate(ordered_map(find, tasks, ctx.scaling.data_workers), 1):
        ctx.progress(number, PARTITIONS, "ranges of lines")


def _forget_unused(index: Location, pieces: list[int]) -> None:
    """Remove pieces of chunks that were cleaned and then not needed: they would stay in an index that is kept."""
    wanted = set(pieces)
    for folder in ("exact", "near", "ids"):
        for name in index.names(folder):
            if int(name.partition(".")[0]) not in wanted:
                index.remove(f"{folder}/{name}")
