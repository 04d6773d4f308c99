"""Rows of options in which every two values of different options stand together once at least."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations
from typing import Any

Options = dict[str, list[Any]]
Row = dict[str, Any]
TRIES = 200  # rows that are drawn before the one that covers most is taken


def pairwise(options: Options, allowed: Callable[[Row], bool], seed: int = 0) -> list[Row]:
    """Rows that are `allowed`, drawn greedily; pairs that no allowed row has are left out."""
    choice = random.Random(seed)
    missing = {
        ((one, a), (two, b))
        for one, two in combinations(options, 2)
        for a in range(len(options[one]))
        for b in range(len(options[two]))
    }
    rows = []
    while missing:
        best: tuple[int, Row, set[Any]] = (0, {}, set())
        for pair in choice.sample(sorted(missing), min(TRIES, len(missing))):
            index = {name: choice.randrange(len(values)) for name, values in options.items()} | dict(pair)
            row = {name: options[name][at] for name, at in index.items()}
            covered = missing & set(combinations(index.items(), 2))
            if allowed(row) and len(covered) > best[0]:
                best = (len(covered), row, covered)
        if not best[0]:
            break
        rows.append(best[1])
        missing -= best[2]
    return rows
