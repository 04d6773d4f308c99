"""How a reward model's scores are spread over held-out answers, as a text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

HISTOGRAMS_FILE = "histograms.txt"
BINS = 16
WIDTH = 40  # characters of the longest bar


def in_text(values: Mapping[str, Sequence[float]]) -> str:
    """A histogram of each list of values under its name, all over the same bins: where a bin begins, a bar, a count."""
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(each, float) for each in values.values()]), BINS)
    counts = {name: np.histogram(each, edges)[0] for name, each in values.items()}
    most = max(int(each.max()) for each in counts.values())
    lines = []
    for name, each in counts.items():
        lines.append(f"{name} (mean {np.mean(values[name]):.3f}, deviation {np.std(values[name]):.3f})\n")
        for begin, count in zip(edges, each, strict=False):
            lines.append(f"{begin:10.3f} {'█' * round(WIDTH * int(count) / most):<{WIDTH}} {count}\n")
    return "".join(lines)
