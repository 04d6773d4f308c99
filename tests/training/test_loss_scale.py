"""fp16's loss scale against torch's own scaler."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.training.engine.loss_scale import GROWTH_INTERVAL, INITIAL_SCALE, LossScale


@pytest.mark.heavy
@given(st.lists(st.one_of(st.integers(1, 2500), st.none()), max_size=12))
def test_it_moves_as_torch_moves_its_own(runs: list[int | None]) -> None:
    """Runs of steps with a finite gradient, and steps without one."""
    ours = LossScale()
    scale, tracker = torch.tensor(INITIAL_SCALE), torch.tensor(0, dtype=torch.int32)
    for run in runs:
        for finite in [True] * run if run else [False]:
            ours.update(finite)
            torch._amp_update_scale_(scale, tracker, torch.tensor(float(not finite)), 2.0, 0.5, GROWTH_INTERVAL)
    assert ours.value == scale
    assert ours.skipped_steps == runs.count(None)


def test_at_a_scale_of_one_the_run_diverges() -> None:
    scale = LossScale()
    assert [scale.update(False) for _ in range(18)] == [True] * 16 + [False] * 2
    assert scale.value == 1.0
