"""Figures that are watched: both KL divergences, by enumeration, and histograms, by numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from pipelines.stages.alignment import histograms
from pipelines.stages.alignment.divergence import divergence


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_divergences_are_the_expectations_over_what_could_be_drawn() -> None:
    """Of three tokens, each drawn as often as the policy says, of a thousand; what is not learned counts nothing."""
    policy, start = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    drawn = np.repeat(np.arange(3), (1000 * policy).astype(int))
    tokens = torch.tensor(np.append(drawn, [0, 0])).unsqueeze(0)
    learn = torch.ones_like(tokens, dtype=torch.bool)
    learn[0, -2:] = False
    of = {"behaviour": torch.tensor(np.log(policy))[tokens], "reference": torch.tensor(np.log(start))[tokens]}
    found = divergence([{**of, "learn": learn}], len(drawn))
    assert found.kl == pytest.approx(float(policy @ np.log(policy / start)), abs=1e-9)
    assert found.forward_kl == pytest.approx(float(start @ np.log(start / policy)), abs=1e-9)
    assert divergence([], 1) == (0, 0)  # a rank without a share


def test_bars_are_the_counts_of_numpy() -> None:
    values = {"a": [0.0, 1.0, 1.0, 4.0], "b": [2.0, 2.1]}
    lines = histograms.in_text(values).splitlines()
    edges = np.linspace(0, 4, histograms.BINS + 1)
    for at, name in ((0, "a"), (histograms.BINS + 1, "b")):
        assert lines[at].startswith(f"{name} (mean {np.mean(values[name]):.3f}")
        found = [(float(line.split()[0]), int(line.split()[-1])) for line in lines[at + 1 : at + 1 + histograms.BINS]]
        counts = np.histogram(values[name], edges)[0].tolist()
        assert found == [(pytest.approx(begin, abs=1e-3), count) for begin, count in zip(edges, counts, strict=False)]
    assert "█" * histograms.WIDTH in lines[5] and histograms.in_text({"c": [1.0]})
