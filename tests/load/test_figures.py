"""The formulas of a load test, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.load.client import Sample
from pipelines.stages.load.driver import Driven
from pipelines.stages.load.figures import figures, is_good, percentile

SECONDS = st.floats(0.0001, 100.0)


@given(st.lists(SECONDS, min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent))


@st.composite
def samples(draw: Any) -> Sample:
    """A streamed answer."""
    intended, late, wait = draw(SECONDS), draw(SECONDS), draw(SECONDS)
    gaps = draw(st.lists(SECONDS, max_size=5))
    first = intended + late + wait
    return Sample(
        intended=intended, sent=intended + late, first=first, gaps=gaps, ended=first + sum(gaps),
        prompt_tokens=draw(st.integers(1, 9)), output_tokens=len(gaps) + 1,
    )  # fmt: skip


@given(st.lists(samples(), min_size=1, max_size=30), st.floats(0.1, 100), st.floats(0.1, 50))
def test_figures_are_those_of_vllms_bench(found: list[Sample], ttft: float, tpot: float) -> None:
    """`calculate_metrics` of vllm/benchmarks/serve.py, with latencies from the intended time."""
    latency = np.array([s.ended - s.intended for s in found])
    first = np.array([s.first - s.intended for s in found])  # type: ignore[operator]
    tokens = np.array([s.output_tokens for s in found])
    several = tokens > 1
    per_token = np.where(several, (latency - first) / np.maximum(tokens - 1, 1), 0.0)
    duration = max(s.ended for s in found) - min(s.intended for s in found)
    told = figures(Driven(found), {"ttft": ttft, "tpot": tpot})
    assert told.ttft is not None and told.e2e is not None
    for summary, values in ((told.ttft, first), (told.e2e, latency), (told.tpot, per_token[several])):
        if len(values):
            assert summary is not None and summary.count == len(values)
            wanted = [values.mean(), *np.percentile(values, [50, 95, 99]), values.max()]
            assert [summary.mean, summary.p50, summary.p95, summary.p99, summary.most] == pytest.approx(wanted)
        else:
            assert summary is None
    gaps = [gap for s in found for gap in s.gaps]
    assert (told.itl is None) == (not gaps) and (not gaps or told.itl.p50 == pytest.approx(np.median(gaps)))  # type: ignore[union-attr]
    good = int(((first <= ttft) & (per_token <= tpot)).sum())
    near = np.isclose(first, ttft).any() or np.isclose(per_token, tpot).any()
    assert near or told.good == good
    assert told.goodput_per_second == pytest.approx((told.good or 0) / duration)
    assert told.output_tokens_per_second == pytest.approx(tokens.sum() / duration)


def test_what_failed_is_counted_apart() -> None:
    answered = Sample(intended=0.0, sent=0.0, first=1.0, ended=2.0, output_tokens=3, artifact="sft/a-0")
    refused = Sample(intended=1.0, sent=1.0, ended=1.001, failed="429")
    cut = Sample(intended=1.0, sent=1.0, first=1.5, ended=4.0, failed="cut", output_tokens=2)
    told = figures(Driven([answered, refused, refused, cut]), {"e2e": 10.0})
    assert told.failed == {"429": 2, "cut": 1} and told.answered == 1 and told.requests == 4
    assert told.e2e is not None and told.e2e.count == 1 and told.e2e.most == 2.0
    assert told.duration_seconds == 4.0 and told.output_tokens == 3 and told.good == 1
    assert told.artifacts == {"sft/a-0": 1}


def test_a_whole_answer_has_no_ttft_and_meets_no_objective_of_it() -> None:
    whole = Sample(intended=0.0, sent=0.0, ended=2.0, output_tokens=3)
    assert whole.ttft is None and whole.tpot is None and whole.e2e == 2.0
    assert not is_good(whole, {"ttft": 9.0}) and is_good(whole, {"e2e": 2.0})


@pytest.mark.parametrize(
    ("late", "lags", "cpu", "said"),
    [
        (0.001, [0.001] * 100, 0.2, ""),
        (0.5, [0.001] * 100, 0.2, "500 ms late"),
        (0.001, [0.4] * 100, 0.2, "400 ms late"),
        (0.001, [0.001] * 100, 0.99, "99% of a core"),
        (0.05, [0.001] * 100, 0.2, ""),  # of answers of a second
    ],
)
def test_a_client_that_does_not_keep_up_is_told(late: float, lags: list[float], cpu: float, said: str) -> None:
    found = [Sample(intended=float(n), sent=n + late, ended=n + 1.0) for n in range(10)]
    told = figures(Driven(found, lags, cpu), {}).client.bottleneck
    assert (said in told) if said else not told
