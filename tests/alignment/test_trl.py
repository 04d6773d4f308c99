"""Losses and gradients are those of TRL's own code, where it has them. TRL is no dependency, so that this is skipped
without it: `pip install --no-deps --target FOLDER trl==1.16.0`, and FOLDER in PYTHONPATH."""

from __future__ import annotations

import pytest

from benchmarks import preference_losses, trl_formulas

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(600)]
pytest.importorskip("trl", reason="TRL is not installed")


def test_policy_gradients_in_fp64() -> None:
    found = {(name, beta): apart for name, beta, apart in trl_formulas.distances()}
    assert len(found) == 9 and max(found.values()) < 1e-6, found
    assert trl_formulas.distillation() < 1e-12


def test_preferences_and_reward_models_in_fp32() -> None:
    found = list(preference_losses.losses())
    assert [row.name for row in found if row.apart > 3e-6 or row.gradients_apart > 3e-6] == [] and len(found) == 7
