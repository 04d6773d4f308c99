"""Which conversations are held out, so that what is held out was not trained: dialogues that belong together stay so.

Two belong together that share a key: the tree that they are paths of, the request that they open with, an answer that
is no mere phrase. What hangs together over any number of others is one group, and a group is held out or trained whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def groups(rows: int, keys: Hashes, owners: Ints) -> Ints:
    """The group of each of `rows` rows, as the number of its first row; key `keys[i]` is one of row `owners[i]`."""
    order = np.lexsort((owners, keys))
    keys, owners = keys[order], owners[order]
    again = np.flatnonzero(keys[1:] == keys[:-1]) + 1  # key i is that of the key before
    parents = list(range(rows)) if len(again) else []

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for row, other in zip(owners[again].tolist(), owners[again - 1].tolist(), strict=True):
        one, two = root(row), root(other)
        parents[max(one, two)] = min(one, two)
    return np.array([root(row) for row in range(rows)] if parents else range(rows), dtype=np.int64)


def held_out(group: Ints, hashes: Hashes, fraction: float) -> NDArray[np.bool_]:
    """Whole groups that are held out, in the order of their first rows' hashes, until `fraction` of the rows is reached
    and at least one; a group that would go beyond it is passed over. Where every group would, the smallest is taken.

    Without groups of several rows these are the first rows in the order of their hashes.
    """
    chosen = np.zeros(len(group), dtype=bool)
    if not len(group):
        return chosen
    wanted = max(1, round(fraction * len(group)))
    sizes = np.bincount(group, minlength=len(group))
    leaders = np.flatnonzero(sizes)
    leaders = leaders[np.lexsort((leaders, hashes[leaders]))]
    left = wanted
    for leader, size in zip(leaders.tolist(), sizes[leaders].tolist(), strict=True):
        if size <= left:
            chosen[leader] = True
            left -= size
            if not left:
                break
    if left == wanted and len(leaders) > 1:
        chosen[leaders[np.argmin(sizes[leaders])]] = True
    return chosen[group]


def duplicates(order: Ints, wholes: list[Hashes], requests: Hashes, is_train: NDArray[np.bool_]) -> Ints:
    """Of each row the one that it repeats, or -1: an equal one that is earlier in `order`, or, for one that is held
    out, one of the train split that asks the same. `order` has the train split first."""
    twins = np.full(len(order), -1, dtype=np.int64)
    places = np.arange(len(order))
    high, low = (each[order] for each in wholes)
    by_whole = np.lexsort((places, low, high))
    same = (high[by_whole][1:] == high[by_whole][:-1]) & (low[by_whole][1:] == low[by_whole][:-1])
    starts = np.concatenate([[True], ~same])[: len(order)]
    first = by_whole[np.maximum.accumulate(np.where(starts, places, 0))]
    repeats = by_whole[~starts]
    twins[order[repeats]] = order[first[~starts]]
    trained = order[is_train[order]]
    known, at = np.unique(requests[trained], return_index=True)
    rest = order[~is_train[order]]
    if len(known) and len(rest):
        found = np.minimum(np.searchsorted(known, requests[rest]), len(known) - 1)
        asked = known[found] == requests[rest]
        twins[rest[asked]] = trained[at[found[asked]]]
    return twins
