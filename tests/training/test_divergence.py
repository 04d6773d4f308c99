"""The policy for bad steps: what counts as one, when a run stops, and that a resumed run decides alike."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import JobError
from pipelines.specs import PretrainSpec
from pipelines.stages.training.telemetry.divergence import Divergence


def policy(**fields: object) -> Divergence:
    return Divergence(PretrainSpec(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
def test_what_is_not_finite_stops_the_run(loss: float, norm: float) -> None:
    with pytest.raises(JobError, match=r"diverged at step 7: loss .*\. Lower the learning rate"):
        policy().admit(7, loss, norm)
    assert policy(on_divergence="skip").admit(7, loss, norm)


def test_a_spike_is_judged_by_the_last_steps_that_were_taken() -> None:
    found = policy(on_divergence="skip", spike_threshold=3, spike_window=4)
    for step, loss in enumerate((9.0, 1.0, 3.0, 1.0, 3.0), start=1):
        assert not found.admit(step, loss, 1.0), "a window that is not full judges nothing, and no fall is a spike"
    # The last four have mean 2 and standard deviation 1.
    assert not found.admit(6, 5.0, 1.0)
    assert found.admit(7, 7.8, 1.0)  # of 3, 1, 3, 5: mean 3, deviation sqrt(2), so that a spike is above 7.24
    assert found.admit(8, 7.3, 1.0), "the spike before it does not raise what is allowed"
    assert not found.admit(9, 7.2, 1.0)
    assert found.skipped == 2


def test_without_a_threshold_nothing_spikes() -> None:
    found = policy()
    assert not any(found.admit(step, 1.0 if step < 200 else 1e9, 1.0) for step in range(1, 202))


def test_a_spike_stops_a_run_that_is_not_to_skip() -> None:
    found = policy(spike_threshold=2, spike_window=2)
    assert not found.admit(1, 1.0, 1.0)
    assert not found.admit(2, 2.0, 1.0)
    with pytest.raises(JobError, match=r"step 3: loss 2.6 is above 1.5 \+ 2 x 0.5"):
        found.admit(3, 2.6, 1.0)


def test_too_many_skips_in_a_row_stop_the_run() -> None:
    found = policy(on_divergence="skip", max_consecutive_skips=2)
    for first in (1, 4):  # a good step begins the count anew
        assert found.admit(first, math.nan, 1.0)
        assert found.admit(first + 1, math.nan, 1.0)
        assert not found.admit(first + 2, 1.0, 1.0)
    assert found.admit(7, math.nan, 1.0)
    assert found.admit(8, math.nan, 1.0)
    with pytest.raises(JobError, match="the 2 steps before it were skipped already"):
        found.admit(9, math.nan, 1.0)


@given(st.lists(st.floats(0.1, 1e3) | st.just(math.nan), min_size=1, max_size=40), st.data())
def test_a_resumed_run_decides_as_if_it_had_never_stopped(losses: list[float], data: st.DataObject) -> None:
    fields = {"on_divergence": "skip", "spike_threshold": 1, "spike_window": 4, "max_consecutive_skips": 100}
    whole = policy(**fields)
    expected = [whole.admit(step, loss, 1.0) for step, loss in enumerate(losses)]
    stop = data.draw(st.integers(0, len(losses)))
    first, second = policy(**fields), policy(**fields)
    found = [first.admit(step, loss, 1.0) for step, loss in enumerate(losses[:stop])]
    second.load_state(json.loads(json.dumps(first.save_state())))
    found += [second.admit(step, loss, 1.0) for step, loss in enumerate(losses[stop:], start=stop)]
    assert found == expected
    assert second.save_state() == whole.save_state()
